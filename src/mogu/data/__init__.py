"""Records, their readers, and building training pairs from plain instructions.

Importing this package imports no PyTorch.
"""

from mogu.data.answers import ModelAnswers
from mogu.data.build import augmented, build_pairs, distinct
from mogu.data.chats import Chat, hub_chats, read_chats, split_chats
from mogu.data.encoding import encode_records, naming_record
from mogu.data.instructions import Instruction, read_instructions
from mogu.data.near_duplicates import NearDuplicates, compared_text, near_duplicate_groups, near_duplicates
from mogu.data.openings import opening_for
from mogu.data.published import read_published
from mogu.data.record_files import Inspection, Problem, inspect_records, naming_lines, read_records, write_record_files, write_records
from mogu.data.records import (
    KINDS,
    Kind,
    Label,
    Message,
    Record,
    Turn,
    conversation_of,
    last_request,
    offered,
    opened,
    user_text,
    wrapped_id,
)
from mogu.data.refusal_bank import REFUSALS, refusal_for, subject_of
from mogu.data.splits import Split, check_shares, source_id, split_records
from mogu.data.templates import ADVERSARIAL_WRAPPERS, NEUTRAL_WRAPPERS, WRAPPERS, PromptTemplate
from mogu.data.tools import read_tools
from mogu.refusals import RefusalVerdict, classify_refusal, is_refusal

__all__ = [
    "ADVERSARIAL_WRAPPERS",
    "KINDS",
    "NEUTRAL_WRAPPERS",
    "REFUSALS",
    "WRAPPERS",
    "Chat",
    "Inspection",
    "Instruction",
    "Kind",
    "Label",
    "Message",
    "ModelAnswers",
    "NearDuplicates",
    "Problem",
    "PromptTemplate",
    "Record",
    "RefusalVerdict",
    "Split",
    "Turn",
    "augmented",
    "build_pairs",
    "check_shares",
    "classify_refusal",
    "compared_text",
    "conversation_of",
    "distinct",
    "encode_records",
    "hub_chats",
    "inspect_records",
    "is_refusal",
    "last_request",
    "naming_lines",
    "naming_record",
    "near_duplicate_groups",
    "near_duplicates",
    "offered",
    "opened",
    "opening_for",
    "read_chats",
    "read_instructions",
    "read_published",
    "read_records",
    "read_tools",
    "refusal_for",
    "source_id",
    "split_chats",
    "split_records",
    "subject_of",
    "user_text",
    "wrapped_id",
    "write_record_files",
    "write_records",
]
