"""Asks a model server from the command line.

    atelier-client COMMAND MODEL [NAME=VALUE ...] [--server=HOST:PORT] [--json] ...
    (or python -m serving.client_main COMMAND ...; COMMAND --help explains one)

{commands}

Values:
{values}

The answer is printed as a table, or with --json as JSON on one line; --output=FILE writes it to a .png (a
grid), .npy, .npz, .json, .txt, .mid or .wav file, --output_dir=DIR each output to files of its own.

Exit status: 0, the answer is there; 1, the server or the model failed or refused; 2, the command line is
wrong or a file cannot be read or written; 130, interrupted. Errors are one line on standard error.

Example:
    atelier-client sample gan_fashion seed=0..15 label=8 --output=bags.png
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from serving import errors, inputs, outputs
from serving.client import TLS, Client, ModelMetadata, Signature
from serving.inputs import UsageError

_SERVER_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130  # as shells report SIGINT


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: see above."""
    argv = sys.argv if argv is None else argv
    try:
        return _run(argv)
    except errors.ServingError as error:
        # Without a gRPC code, the client itself found the mistake, before it sent anything.
        return _fail(error, _SERVER_FAILED if error.code else _USAGE)
    except BrokenPipeError:  # `| head`; Python would complain once more when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SERVER_FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (UsageError, flags.Error, OSError) as error:
        return _fail(error, _USAGE)


def _fail(error: Exception, status: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _run(argv: list[str]) -> int:
    name = next((word for word in argv[1:] if not word.startswith("-")), None)
    if name is None:
        if "--help" not in argv[1:]:
            raise UsageError(f"expected a command: {', '.join(_COMMANDS)} (--help explains)")
        summaries = "\n".join(f"    {key:<9} {command.summary}" for key, command in _COMMANDS.items())
        print((__doc__ or "").format(commands=summaries, values=_grammar()))
        return 0
    if name not in _COMMANDS:
        close = difflib.get_close_matches(name, _COMMANDS, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"no command {name!r}{guess} (there are {', '.join(_COMMANDS)})")
    command = _COMMANDS[name]
    options = _define_flags(command)
    words = options(argv)[1:]
    words.remove(name)
    if options.help:
        print(f"{command.help(name)}\nFlags:{options.get_help()}")
        return 0
    if not words and not command.model_is_optional:
        raise UsageError(f"expected {name} MODEL ({name} --help explains)")
    for value in options.flag_values_dict().values():
        words_of_flag = value if isinstance(value, list) else [value]
        _check_utf8([word for word in words_of_flag if isinstance(word, str)])
    _check_utf8(words)
    addresses = options.server.split(",")
    with Client.connect(
        addresses if len(addresses) > 1 else addresses[0],
        tls=_tls(options),
        compression=options.compression,
        timeout=options.timeout,
    ) as client:
        return command.run(client, words, options)


def _check_utf8(texts: list[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{text!r} is not UTF-8, as names on a server are") from None


def _grammar() -> str:
    """What `inputs` says about values, without its title."""
    return (inputs.__doc__ or "").partition("\n\n")[2].rstrip()


def _tls(options: flags.FlagValues) -> bool | TLS:
    if options.tls_cert is None and options.tls_key is None and options.tls_ca is None:
        return options.tls
    return TLS(ca=options.tls_ca, key=options.tls_key, cert=options.tls_cert)


# --- Commands ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Command:
    run: Callable[[Client, list[str], flags.FlagValues], int]
    summary: str
    model_is_optional: bool = False
    answers: bool = False  # whether it runs a signature, with flags for its outputs

    def help(self, name: str) -> str:
        """The function's docstring under the summary."""
        text = f"atelier-client {name}: {self.summary}\n\n{_unindented(self.run.__doc__ or '')}"
        return f"{text}\n\nValues:\n{_grammar()}\n" if self.answers else f"{text}\n"


def _unindented(text: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in text.strip().splitlines())


def _define_flags(command: _Command) -> flags.FlagValues:
    """A set of our own: absl's global one would clash where a process imports several binaries."""
    own = flags.FlagValues()
    server = "host:port or unix:/path; several, with commas, in turn."
    flags.DEFINE_string("server", "127.0.0.1:8500", server, flag_values=own)
    flags.DEFINE_float("timeout", 60.0, "Seconds per call.", lower_bound=0.0, flag_values=own)
    flags.DEFINE_bool("tls", False, "TLS with the system's roots.", flag_values=own)
    flags.DEFINE_string("tls_ca", None, "PEM file of the server's root; TLS.", flag_values=own)
    flags.DEFINE_string("tls_cert", None, "PEM file of the client's certificate; TLS.", flag_values=own)
    flags.DEFINE_string("tls_key", None, "PEM file of its key.", flag_values=own)
    compressions = ["gzip", "deflate"]
    flags.DEFINE_enum("compression", None, compressions, "Of what is sent.", flag_values=own)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=own)
    flags.DEFINE_bool("help", False, "Print this help.", flag_values=own)
    if command.run is not _health:
        flags.DEFINE_integer(
            "version",
            None,
            "Model version; none = the newest.",
            lower_bound=0,
            upper_bound=2**63 - 1,  # it travels as an int64
            flag_values=own,
        )
    if command.run is _describe or command.answers:
        flags.DEFINE_string("label", None, "Version label, instead of a version.", flag_values=own)
    if command.answers:
        flags.DEFINE_string("signature", "", "Signature; empty = the command's own.", flag_values=own)
        flags.DEFINE_multi_string("input", [], "NAME=VALUE, as the words after the model.", flag_values=own)
        wanted = "Wanted outputs, comma-separated; none = all."
        flags.DEFINE_list("outputs", [], wanted, flag_values=own)
        flags.DEFINE_string("output", None, "File for the answer.", flag_values=own)
        flags.DEFINE_string("output_dir", None, "Folder for the outputs.", flag_values=own)
    return own


def _status(client: Client, words: list[str], options: flags.FlagValues) -> int:
    """atelier-client status MODEL... [--version=N]

    The versions that the server has seen, newest first, with their states and what made them fail. The exit
    status is 1 if one of the models has no version that is AVAILABLE.
    """
    found = {model: client.status(model, version=options.version) for model in words}
    if options.json:
        # One model's list alone, as ever.
        listed = {model: [vars(version) for version in versions] for model, versions in found.items()}
        print(json.dumps(listed if len(listed) > 1 else next(iter(listed.values()))))
    else:
        for model, versions in found.items():
            if len(found) > 1:
                print(model)
            print(f"{'version':>12}  {'state':<10} error")
            for version in versions:
                error = "" if version.error_code == "OK" else f"{version.error_code}: "
                print(f"{version.version:>12}  {version.state:<10} {error}{version.error_message}".rstrip())
    served = all(any(v.state == "AVAILABLE" for v in versions) for versions in found.values())
    return 0 if served else _SERVER_FAILED


def _health(client: Client, words: list[str], options: flags.FlagValues) -> int:
    """atelier-client health [MODEL]

    What the server's health service says of itself, or of one model where it knows models; the exit status is
    0 for SERVING and else 1. TensorFlow Serving has the service with --enable_grpc_healthcheck_service.
    """
    answer = client.health(words[0] if words else "")
    print(json.dumps({"health": answer}) if options.json else answer)
    return 0 if answer == "SERVING" else _SERVER_FAILED


def _describe(client: Client, words: list[str], options: flags.FlagValues) -> int:
    """atelier-client describe MODEL [--version=N | --label=L]

    The signatures of a model: inputs and outputs with their types, shapes (? is any size) and defaults, and a
    command to begin with.
    """
    model = _one_model(words)
    metadata = client.metadata(model, version=options.version, label=options.label)
    if options.json:
        print(json.dumps(_described(metadata)))
        return 0
    print(f"{model} version {metadata.version}")
    for name, signature in metadata.signatures.items():
        print(f"\n{name}")
        for arrow, specs in (("in ", signature.inputs), ("out", signature.outputs)):
            for spec in specs.values():
                default = "" if spec.default is None else f"  default {outputs.text(spec.default)}"
                print(f"  {arrow}  {spec.name:<16} {spec}{default}")
        given = " ".join(f"{s.name}=..." for s in signature.inputs.values() if s.default is None)
        chosen = "" if name == "serving_default" else f" --signature={name}"
        print(f"  atelier-client predict {model} {given}{chosen}")
    return 0


def _described(metadata: ModelMetadata) -> dict[str, Any]:
    signatures = {
        name: {
            part: {
                spec.name: {
                    "dtype": spec.dtype,
                    "shape": None if spec.shape is None else list(spec.shape),
                    **({} if spec.default is None else {"default": outputs.jsonable(spec.default)}),
                }
                for spec in specs.values()
            }
            for part, specs in (("inputs", found.inputs), ("outputs", found.outputs))
        }
        for name, found in metadata.signatures.items()
    }
    return {"model": metadata.model, "version": metadata.version, "signatures": signatures}


def _predict(client: Client, words: list[str], options: flags.FlagValues) -> int:
    """atelier-client predict MODEL NAME=VALUE... [--signature=NAME] [--outputs=A,B] [--output=FILE]

    Runs one signature (serving_default unless named) of any model.
    """
    signature = _signature(client, words[0], options)
    return _answer(client, words[0], signature, words[1:], options)


def _sample(client: Client, words: list[str], options: flags.FlagValues) -> int:
    """atelier-client sample MODEL [seed=0..15] [NAME=VALUE...] [--output=FILE]

    Runs the signature `sample`: without seeds sixteen of them, and without a place for the answer the
    pictures become a grid in MODEL.png.
    """
    signature = _signature(client, words[0], options, "sample")
    values = words[1:]
    if "seed" in signature.inputs and not _given("seed", values, options):
        values.append("seed=0..15")
    return _answer(client, words[0], signature, values, options, Path(f"{Path(words[0]).name}.png"))


def _generate(client: Client, words: list[str], options: flags.FlagValues) -> int:
    """atelier-client generate MODEL [PROMPT...] [NAME=VALUE...] [--output=FILE]

    Runs the signature `generate`: each PROMPT is one row, and text is printed as it is. Without a seed it
    is 0. Notes go to a .mid file (MIDI) or to .wav.
    """
    signature = _signature(client, words[0], options, "generate")
    prompts, values = _split(words[1:], signature)
    if prompts and "prompt" not in signature.inputs:
        known = ", ".join(signature.inputs) or "no input"
        raise UsageError(f"signature {signature.name!r} takes no prompt; it has {known}")
    values += [f"prompt={prompt}" for prompt in prompts]
    seed = signature.inputs.get("seed")
    if seed is not None and seed.default is None and not _given("seed", values, options):
        values.append("seed=0")
    return _answer(client, words[0], signature, values, options, print_text=True)


def _stylize(client: Client, words: list[str], options: flags.FlagValues) -> int:
    """atelier-client stylize MODEL PICTURE [STYLE PICTURE] [NAME=VALUE...] [--output=FILE]

    Runs `stylize_bytes`, or else `stylize`, on a picture: the style is a second picture or what the model's
    own inputs say (style=NAME, style_weights=...). Without a place for the answer it is PICTURE_stylized.png
    or .jpg.
    """
    pictures, _ = _split(words[1:], None)
    signature = _signature(client, words[0], options, "stylize_bytes", "stylize")
    return _pictures(client, words, signature, options, Path(f"{_stem(pictures)}_stylized.png"))


def _classify(client: Client, words: list[str], options: flags.FlagValues) -> int:
    """atelier-client classify MODEL PICTURE... [NAME=VALUE...]

    Runs `classify_bytes`, or else `classify`, on pictures; a line for each.
    """
    signature = _signature(client, words[0], options, "classify_bytes", "classify")
    wanted = [name for name in ("label", "probabilities") if name in signature.outputs]
    return _pictures(client, words, signature, options, wanted=wanted)


_COMMANDS = {
    "status": _Command(_status, "the versions of models and their states"),
    "health": _Command(_health, "whether the server, or a model, takes requests", model_is_optional=True),
    "describe": _Command(_describe, "a model's signatures: inputs, outputs, defaults"),
    "predict": _Command(_predict, "run any signature", answers=True),
    "sample": _Command(_sample, "draw samples, as one PNG", answers=True),
    "generate": _Command(_generate, "continue text, or write music", answers=True),
    "stylize": _Command(_stylize, "paint a picture in a style", answers=True),
    "classify": _Command(_classify, "say what pictures show", answers=True),
}


# --- What the commands share ---------------------------------------------------------------------


def _one_model(words: list[str]) -> str:
    if len(words) != 1:
        raise UsageError(f"expected one model, given {' '.join(words)}")
    return words[0]


def _signature(client: Client, model: str, options: flags.FlagValues, *usual: str) -> Signature:
    """The one that is asked for, else the first of the usual ones that the model has, else the default."""
    known = client.metadata(model, version=options.version, label=options.label).signatures
    name = options.signature or next((name for name in usual if name in known), "serving_default")
    # An unknown signature is the client's to report: it knows the others.
    return known.get(name, Signature(name, {}, {}, ""))


def _given(name: str, values: list[str], options: flags.FlagValues) -> bool:
    return any(value.startswith((f"{name}=", "@")) for value in [*values, *options.input])


def _split(words: list[str], signature: Signature | None) -> tuple[list[str], list[str]]:
    """Plain words, and those that are NAME=VALUE or @FILE; a NAME that is no input may be part of a text."""

    def is_value(word: str) -> bool:
        name, equals, _ = word.partition("=")
        known = name.isidentifier() if signature is None else name in signature.inputs
        return word.startswith("@") or bool(equals and known)

    return [word for word in words if not is_value(word)], [word for word in words if is_value(word)]


def _stem(pictures: list[str]) -> str:
    return Path(pictures[0]).stem if pictures else "picture"


def _pictures(
    client: Client,
    words: list[str],
    signature: Signature,
    options: flags.FlagValues,
    default: Path | None = None,
    wanted: list[str] | None = None,
) -> int:
    """Runs a signature on picture files: each in its own input, or all as rows of the only one."""
    model, *rest = words
    files, values = _split(rest, None)
    takes = [name for name in ("image_bytes", "image", "content", "style") if name in signature.inputs]
    # `style` of stylize_bytes is a name, not a picture.
    if signature.inputs.keys() >= {"image_bytes", "style"}:
        takes.remove("style")
    takes = [name for name in takes if not _given(name, values, options)]
    if files and not takes:
        known = ", ".join(signature.inputs) or "no input"
        raise UsageError(f"signature {signature.name!r} takes no picture; it has {known}")
    slots = takes if len(takes) > 1 else takes * len(files)
    if len(files) > len(slots):
        raise UsageError(f"expected at most {len(slots)} pictures ({', '.join(slots)}), given {len(files)}")
    values += [f"{name}=@{file}" for name, file in zip(slots, files, strict=False)]
    names = files if len(takes) == 1 else []
    return _answer(client, model, signature, values, options, default, names=names, wanted=wanted)


def _answer(
    client: Client,
    model: str,
    signature: Signature,
    values: list[str],
    options: flags.FlagValues,
    default: Path | None = None,
    *,
    names: list[str] | None = None,
    wanted: list[str] | None = None,
    print_text: bool = False,
) -> int:
    """Asks, then prints or writes the answer.

    Args:
      default: where a picture goes if nothing says where.
      names: of the rows.
      wanted: the outputs if --outputs does not say.
      print_text: whether the texts are all that is printed, if there are any.
    """
    answer = client.predict(
        model,
        inputs.read([*values, *options.input], signature.inputs),
        signature=signature.name,
        version=options.version,
        label=options.label,
        outputs=options.outputs or wanted,
    )
    files: dict[str, list[str]] = {}
    if options.output_dir:
        files = outputs.write_folder(answer, Path(options.output_dir))
    place = Path(options.output) if options.output else None
    if place is None and default is not None and not options.output_dir and not options.json:
        place = _default_place(answer, default)
    if place is not None:
        print(outputs.write_file(answer, place), file=sys.stderr if options.json else sys.stdout)
        if not options.json:
            return 0
    if options.json:
        print(json.dumps({k: files.get(k) or outputs.jsonable(v) for k, v in sorted(answer.items())}))
    elif files:
        print("\n".join(path for paths in files.values() for path in paths))
    elif print_text and (texts := [v for v in answer.values() if v.dtype == object]):
        print("\n\n".join(outputs.text(np.atleast_1d(t)[i : i + 1]) for t in texts for i in range(t.size)))
    else:
        print(outputs.table(answer, names or []))
    return 0


def _default_place(answer: outputs.Arrays, default: Path) -> Path | None:
    """`default`, with the suffix of what the answer holds; None if that is no single picture."""
    encoded = [v.flat[0] for v in answer.values() if v.dtype == object and v.size == 1]
    suffixes = [inputs.picture_suffix(value) for value in encoded]
    if suffixes and suffixes[0]:
        return default.with_suffix(suffixes[0])
    return default if sum(map(outputs.is_pictures, answer.values())) == 1 else None


if __name__ == "__main__":
    sys.exit(main())
