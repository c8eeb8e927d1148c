"""Replays the golden requests of exports against a model server and says what differs.

    atelier-doctor DIR                   starts a server for what is in DIR, and replays
    atelier-doctor HOST:PORT DIR         against a running one, by gRPC; also unix:/path
    atelier-doctor http://HOST:PORT DIR  by REST: KServe's v1 protocol, or TensorFlow Serving's REST port
    (or python -m serving.doctor_main ...)

DIR is a folder of models, of one model (its newest version is taken) or of one version, as atelier-export
wrote it. The first form needs TensorFlow (pip install 'atelier[serve]'); the others need nothing.

Said are: models, versions and signatures that the server lacks, versions that failed to load and why, outputs
that are missing, new, or of another type or shape, values that differ with the place where they differ most,
requests that it refuses, and how long each signature took.

Exit status: 0, all is as it was when the model was exported; 1, something differs; 2, it could not be checked
(no server, no golden requests, a wrong command line).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import re
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from serving import doctor, doctor_rest, errors, golden
from serving.client import TLS, Client

_DIFFERS = 1
_UNCHECKED = 2
_INTERRUPTED = 130  # as shells report SIGINT


class UsageError(Exception):
    """The command line is wrong; the message says how."""


def define_flags() -> flags.FlagValues:
    """A set of our own: absl's global one would clash where a process imports several binaries."""
    own = flags.FlagValues()
    flags.DEFINE_float(
        "atol", 1e-5, "How far a number may be off, besides --rtol.", lower_bound=0.0, flag_values=own
    )
    flags.DEFINE_float(
        "rtol", 1e-4, "The same, as a share of the expected number.", lower_bound=0.0, flag_values=own
    )
    flags.DEFINE_string("model_name", None, "Its name on the server; none = its folder's.", flag_values=own)
    flags.DEFINE_enum(
        "engine", "embedded", ["embedded", "tfserving"], "What to start for DIR alone.", flag_values=own
    )
    flags.DEFINE_float("timeout", 60.0, "Seconds per request.", lower_bound=0.0, flag_values=own)
    flags.DEFINE_bool("tls", False, "gRPC over TLS with the system's roots.", flag_values=own)
    flags.DEFINE_string("tls_ca", None, "PEM file of the server's root; TLS.", flag_values=own)
    flags.DEFINE_string("tls_cert", None, "PEM file of the client's certificate; TLS.", flag_values=own)
    flags.DEFINE_string("tls_key", None, "PEM file of its key.", flag_values=own)
    flags.DEFINE_multi_string(
        "header", [], "'Name: value' for REST, e.g. the Host that KServe's gateway wants.", flag_values=own
    )
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=own)
    flags.DEFINE_bool("help", False, "Print this help.", flag_values=own)
    return own


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: see above."""
    argv = sys.argv if argv is None else argv
    options = define_flags()
    try:
        words = options(argv)[1:]
        if options.help:
            print(f"{__doc__}\nFlags:{options.get_help()}")
            return 0
        return _run(words, options)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except errors.ServerNotStarted as error:
        print(f"error: {error}", file=sys.stderr)  # with the lines of its log
        return _UNCHECKED
    except (UsageError, golden.GoldenError, errors.ServingError, flags.Error, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return _UNCHECKED


def _run(words: list[str], options: flags.FlagValues) -> int:
    address, folder = _targets(words)
    exports = golden.find(folder)
    if options.model_name is not None:
        if len(exports) != 1:
            names = ", ".join(export.model for export in exports)
            raise UsageError(f"--model_name is one model's, {folder} holds {names}")
        exports = [dataclasses.replace(exports[0], model=options.model_name)]
    for export in exports:
        golden.read(export)  # before a server is started for nothing
    checks: list[doctor.Check] = []
    with _server(address, exports, options) as server:
        for check in doctor.examine(server, exports, options.atol, options.rtol):
            if not options.json:
                _print(check, checks[-1] if checks else None)
            checks.append(check)
    wrong = sum(bool(check.findings) for check in checks)
    if options.json:
        print(json.dumps([dataclasses.asdict(check) for check in checks]))
    else:
        replayed = sum(check.first_ms is not None for check in checks)
        verdict = f"{wrong} differ" + "s" * (wrong == 1) if wrong else "nothing differs"
        models = f"{len(exports)} model{'s' * (len(exports) != 1)}"
        print(f"\n{models}, {replayed} request{'s' * (replayed != 1)} replayed: {verdict}")
    return _DIFFERS if wrong else 0


def _targets(words: list[str]) -> tuple[str | None, Path]:
    """(server or None, folder) from one or two words, in either order."""
    folders = [word for word in words if Path(word).is_dir()]
    servers = [word for word in words if word not in folders]
    for word in servers:
        if not re.fullmatch(r"https?://.+|unix:.+|.+:\d+", word):
            raise UsageError(f"{word} is neither a folder nor a server (host:port, unix:/path, http://host:port)")
    if len(folders) == 1 and len(servers) <= 1:
        return next(iter(servers), None), Path(folders[0])
    if len(servers) == 1 and not folders:
        raise UsageError(
            f"the golden requests are in the exports: atelier-doctor {servers[0]} DIR, the folder of the "
            "models as they were exported"
        )
    raise UsageError("expected DIR, or HOST:PORT DIR (--help explains)")


@contextlib.contextmanager
def _server(
    address: str | None, exports: list[golden.Export], options: flags.FlagValues
) -> Iterator[doctor.Server]:
    if address is not None and address.startswith(("http://", "https://")):
        headers = _headers(options.header)
        yield doctor_rest.RestServer(address, headers, options.timeout, _https(address, options))
        return
    with contextlib.ExitStack() as stack:
        if address is None:
            if options.engine == "embedded" and importlib.util.find_spec("tensorflow") is None:
                raise UsageError(
                    "starting a server needs TensorFlow: pip install 'atelier[serve]'; or name one that "
                    "runs: atelier-doctor HOST:PORT DIR"
                )
            address = stack.enter_context(doctor.serving(exports, options.engine)).address
        client = Client.connect(address, tls=_tls(options), timeout=options.timeout)
        yield doctor.GrpcServer(stack.enter_context(client))


def _tls(options: flags.FlagValues) -> bool | TLS:
    if options.tls_cert is None and options.tls_key is None and options.tls_ca is None:
        return options.tls
    return TLS(ca=options.tls_ca, key=options.tls_key, cert=options.tls_cert)


def _https(address: str, options: flags.FlagValues) -> ssl.SSLContext | None:
    if not address.startswith("https://"):
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
        if options.tls_cert is not None:
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except ssl.SSLError as error:
        files = ", ".join(name for name in (options.tls_ca, options.tls_cert, options.tls_key) if name)
        raise UsageError(f"no certificate or key of it: {files}: {error}") from None
    return context


def _headers(texts: list[str]) -> dict[str, str]:
    headers = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise UsageError(f"--header={text}: expected 'Name: value'")
        headers[name.strip()] = value.strip()
    return headers


def _print(check: doctor.Check, before: doctor.Check | None) -> None:
    if before is None or (before.model, before.version) != (check.model, check.version):
        print(f"{check.model} version {check.version}")
    mark = "DIFFERS" if check.findings else "ok"
    took = ""
    if check.first_ms is not None:
        took = f"  {check.rows} rows, {check.best_ms:.1f} ms (the first time {check.first_ms:.1f} ms)"
        if check.max_difference:
            took += f", off by at most {check.max_difference:.2g}"
    print(f"  {mark:<8}{check.signature or 'not replayed'}{took}", flush=True)
    for finding in check.findings:
        print(f"          {finding}")


if __name__ == "__main__":
    sys.exit(main())
