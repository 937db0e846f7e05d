"""A model as one call of ``generate`` sees it: every attribute is the model's own, but for some methods that belong to the call.

What one call changes, other calls of the same model in other threads do not notice. Knows Python objects; knows nothing of what is
generated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def view_for_call(model: Any, **methods: Callable[..., Any]) -> Any:
    """The same model, attributes and all, with other methods; a view of a view keeps the methods of the first that it does not replace.

    Args:
        model: a model, or a view of one.
        methods: what stands for its methods of these names; they are taken to have the same parameters, which ``generate`` looks at.
    """
    methods = {name: functools.wraps(getattr(model, name))(functools.partial(method)) for name, method in methods.items()}
    methods = getattr(model, "methods_of_call", {}) | methods
    view: Any = object.__new__(_view_class(type(model), tuple(methods)))  # type: ignore[arg-type]  # types are hashable
    view.__dict__ = vars(model)  # the very same attributes: what ``generate`` keeps on the model, such as a compiled forward, stays there
    view.methods_of_call = methods
    return view


@functools.cache
def _view_class(model_class: type, names: tuple[str, ...]) -> type:
    attributes = {
        "__module__": model_class.__module__,
        "__doc__": model_class.__doc__,
        "__slots__": ("methods_of_call",),
    }
    # Properties, which come before what PEFT, accelerate and others may have put on the instance under these names.
    return type(model_class.__name__, (model_class,), attributes | {name: property(functools.partial(_method, name)) for name in names})


def _method(name: str, view: Any) -> Callable[..., Any]:
    method: Callable[..., Any] = view.methods_of_call[name]
    return method
