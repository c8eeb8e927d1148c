"""A served model as a Python object: its signatures are its methods, with keywords, defaults and docstrings.

    m = client.model("gan_fashion")
    m.sample(seed=range(16), label=3)["image"]      # m.<Tab>, help(m.sample)
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from serving import errors, schema


class Function:
    """One signature. Calling it with its inputs as keywords gives what the client's `predict` gives."""

    def __init__(
        self,
        metadata: schema.ModelMetadata,
        name: str,
        predict: Callable[..., Any],
        options: Mapping[str, Any],
    ) -> None:
        signature = metadata.signatures[name]
        self.spec = signature
        self.__name__ = self.__qualname__ = name
        self.__doc__ = _doc(metadata, signature)
        self.__signature__ = _parameters(signature)
        self._model, self._predict, self._options = metadata.model, predict, options

    def __call__(self, *positional: Any, **inputs: Any) -> Any:
        if positional:
            raise TypeError(f"inputs are given by name: {self.__name__}{self.__signature__}")
        return self._predict(self._model, inputs, signature=self.__name__, **self._options)

    def __repr__(self) -> str:
        return f"<signature {self.__name__}{self.__signature__} of {self._model}>"


class Model:
    """A model's signatures by name: `m.sample` or `m["sample"]`; `m(...)` is the one called serving_default.

    They are those of the version that answered last.
    """

    def __init__(
        self,
        metadata: schema.ModelMetadata,
        latest: Callable[[], schema.ModelMetadata | None],
        predict: Callable[..., Any],
        options: Mapping[str, Any],
    ) -> None:
        self._last = metadata
        self._latest = latest
        self._predict = predict
        self._options = options

    @property
    def metadata(self) -> schema.ModelMetadata:
        """The signatures as data."""
        self._last = self._latest() or self._last
        return self._last

    def __getitem__(self, name: str) -> Function:
        """Raises errors.SignatureNotFound, a LookupError, where there is none of this name."""
        metadata = self.metadata
        return Function(metadata, metadata.signature(name).name, self._predict, self._options)

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__"):  # what Python and notebooks ask any object for
            raise AttributeError(name)
        try:
            return self[name]
        except errors.SignatureNotFound as error:
            raise AttributeError(str(error)) from None

    def __call__(self, **inputs: Any) -> Any:
        return self[schema.DEFAULT_SIGNATURE](**inputs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.metadata.signatures)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        metadata = self.metadata
        lines = (f"  {name}{_parameters(each)}" for name, each in metadata.signatures.items())
        return "\n".join((f"<{metadata.model} version {metadata.version}>", *lines))


def _parameters(signature: schema.Signature) -> inspect.Signature:
    """Inputs without a default first; those whose names are no Python names are behind **inputs."""
    parameters = []
    rest = False
    for name, spec in sorted(signature.inputs.items(), key=lambda item: item[1].default is not None):
        if not name.isidentifier() or keyword.iskeyword(name):
            rest = True
            continue
        default = inspect.Parameter.empty
        if spec.default is not None:
            default = spec.default.item() if spec.default.size == 1 else spec.default.tolist()
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=str(spec))
        )
    if rest:
        parameters.append(inspect.Parameter("inputs", inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters, return_annotation="Answer")


def _doc(metadata: schema.ModelMetadata, signature: schema.Signature) -> str:
    def lines(specs: Mapping[str, schema.TensorSpec]) -> str:
        text = ""
        for spec in specs.values():
            default = "" if spec.default is None else f", {spec.default.tolist()} if left out"
            text += f"  {spec.name}: {spec}{default}\n"
        return text

    return (
        f"Signature {signature.name!r} of {metadata.model}, version {metadata.version}.\n\n"
        f"Args:\n{lines(signature.inputs)}Returns:\n{lines(signature.outputs)}"
    )
