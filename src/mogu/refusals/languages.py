"""Recognize refusals by their usual openings in the most widely spoken languages besides English.

Knows openings only; knows nothing of prompts, or of how the rest of such a reply reads.
"""

from __future__ import annotations

import re

_REFUSALS = {
    "Mandarin": (
        r"(?:抱歉|对不起|對不起|不好意思|遗憾|遺憾)[^。]{0,30}(?:无法|無法|不能|不会|不會|没办法|沒辦法|不可以|不便|拒绝|拒絕)|^(?:作为|作為|作为一个|身为)?[^。]{0,24}我?(?:无法|無法|不能|不会"
        r"|不會)(?:为您|为你|給您|给你|向您|向你)?"
        r"(?:帮助|幫助|提供|协助|協助|回答|满足|滿足|完成|支持|生成|讨论|討論|参与|參與|执行)"
    ),
    "Hindi": r"(?:खेद|माफ़|माफ|क्षमा)[^।]{0,80}नहीं|(?:मदद|सहायता|जानकारी|उत्तर)[^।]{0,30}नहीं (?:कर|दे) सक",
    "Spanish": (
        r"\b(?:lo siento|lamento|perdón|perdona|disculp\w+)\b[^.]{0,60}\bno (?:puedo|podemos|podré|me es posible|estoy|voy a|debo)\b"
        r"|^(?:como [^.]{0,60})?no (?:puedo|podemos|voy a|debo) (?:\w+ ){0,2}(?:ayud|proporcion|ofrec|dar|brind|asist|cumpl|respond"
        r"|particip|gener|cre|compart)"
    ),
    "French": (
        r"\b(?:désolée?|regrette|excuse\w*|navrée?|malheureusement)\b[^.]{0,60}\bje (?:ne|n')|^(?:en tant [^.]{0,60})?je (?:ne "
        r"|n')(?:peux|puis|suis pas en mesure|saurais|vais pas|souhaite)[^.]{0,30}(?:aid|fourni|répond|donn|assist|satisf|accéd|particip"
        r"|cré|partag)"
    ),
    "Arabic": (
        r"(?:عذر|آسف|أعتذر|المعذرة|للأسف)[^.]{0,60}(?:لا|لن|ليس) ?(?:أستطيع|استطيع|يمكن|أقدر|بإمكان|أتمكن)|^(?:لا|لن) (?:أستطيع|استطيع"
        r"|يمكنني|أتمكن من) (?:مساعد|تقديم|المساعدة|توفير|الإجابة)"
    ),
    "Bengali": r"(?:দুঃখিত|ক্ষমা)[^।]{0,80}(?:পারব না|পারছি না|পারি না|সম্ভব না|সম্ভব নয়|পারবো না)",
    "Portuguese": (
        r"\b(?:desculpe?|lamento|sinto muito|infelizmente|perdão)\b[^.]{0,60}\bnão (?:posso|consigo|sou capaz|vou|poderei|podemos"
        r"|estou)\b|^não (?:posso|consigo|podemos|vou) (?:\w+ ){0,2}(?:ajud|fornec|oferec|dar|atend|respond|auxili|cri|ger|compart)"
    ),
    "Russian": (
        r"\b(?:извин\w*|прости\w*|сожале\w*)[^.]{0,60}\bне (?:могу|буду|смогу|можем|имею)\b|^(?:как [^.]{0,60})?я не (?:могу|буду"
        r"|смогу) (?:\w+ ){0,2}(?:помо|предостав|ответ|выполн|дать|предлож|обсужд|созда|поддерж)"
    ),
    "Urdu": r"(?:معذرت|معاف|افسوس)[^۔]{0,80}نہیں",
    "Indonesian": (
        r"\bmaaf\b[^.]{0,80}\b(?:tidak|tak) (?:dapat|bisa|mampu|boleh)\b|^saya (?:tidak|tak) (?:dapat|bisa"
        r"|akan) (?:\w+ ){0,1}(?:membantu|memberikan|menyediakan|memenuhi|menjawab)"
    ),
    "German": (
        r"\b(?:tut mir (?:sehr )?leid|leider|entschuldig\w*|ich bedaure)\b[^.]{0,40}\b(?:ich|wir|dabei|damit)\b[^.]{0,60}\b(?:nicht"
        r"|keine?n?)\b|^ich (?:kann|darf|werde|möchte) [^.]{0,60}\bnicht (?:weiter)?(?:helfen|beantworten|unterstützen|erfüllen|geben"
        r"|nachkommen)"
    ),
    "Japanese": (
        r"(?:申し訳|すみません|ごめん|恐れ入り|残念)[^。]{0,60}(?:できません|できない|できかね|いたしかね|応じられ|お控え)|(?:お手伝い|お答え|お応え|提供)(?:すること)?は?(?:できません|できかねます|いたしかねます)"
    ),
}
_REFUSAL = re.compile("|".join(f"(?:{pattern})" for pattern in _REFUSALS.values()))


def refuses_in_another_language(sentence: str) -> bool:
    """Return whether a sentence, in lower case, is a refusal in one of the languages of this file."""
    return _REFUSAL.search(sentence) is not None
