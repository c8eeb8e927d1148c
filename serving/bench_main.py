"""Puts load on a model server and says how fast it answers.

    atelier-bench MODEL [NAME=VALUE...] --concurrency=1,2,4,8    closed loop: so many callers
    atelier-bench MODEL [NAME=VALUE...] --rate=50,100,200        open loop: so many requests a second
    (or python -m serving.bench_main ...)

Closed loop: a caller sends when its last answer is there; when the server is slow, less is asked of it, and
the waiting that steady callers would meet is not seen. Open loop: requests are due at their times (Poisson,
or fixed), and latencies count from then, so none is left out. Requests that meet their timeout count with it.

Inputs are NAME=VALUE as for atelier-client; the rest is made up from the signature: floats in [0, 1), whole
numbers 0 or 1, a line of text, a PNG for names in _bytes. NAME=random:224x224x3 gives sizes that the
signature leaves open, --golden=DIR takes the export's own example request.

A load is measured after its warm-up until three windows in a row have nearly the same throughput and median,
or until --max_seconds; what was not stable is marked. When the generator itself was the limit, it says so.

Exit status: 0, every load got answers; 1, the server failed; 2, the command line is wrong; 130, interrupted.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from serving import errors, golden, inputs, load, load_plot, outputs, random_inputs, tensors, wire_pb2
from serving.client import TLS, Client
from serving.inputs import UsageError

_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130  # as shells report SIGINT

_CLOSED_NOTE = (
    "closed loop: a slow answer delays its caller's next request, so waiting that steady callers would meet "
    "is not in these latencies (coordinated omission); --rate measures it"
)
_OPEN_NOTE = "open loop: latencies count from when each request was due"
_LOCAL = ("127.0.0.1:", "localhost:", "[::1]:", "unix:")


def define_flags() -> flags.FlagValues:
    """A set of our own: absl's global one would clash where a process imports several binaries."""
    own = flags.FlagValues()
    server = "host:port or unix:/path; several, with commas, in turn."
    flags.DEFINE_string("server", "127.0.0.1:8500", server, flag_values=own)
    flags.DEFINE_string("signature", "", "Signature; empty = serving_default.", flag_values=own)
    flags.DEFINE_integer("version", None, "Model version; none = the newest.", 0, 2**63 - 1, flag_values=own)
    flags.DEFINE_string("label", None, "Version label, instead of a version.", flag_values=own)
    flags.DEFINE_list("outputs", [], "Wanted outputs, comma-separated; none = all.", flag_values=own)
    callers = "Callers of each load; closed loop. 1 unless --rate."
    flags.DEFINE_list("concurrency", [], callers, flag_values=own)
    flags.DEFINE_list("rate", [], "Requests a second of each load; open loop.", flag_values=own)
    flags.DEFINE_enum(
        "arrivals", "poisson", ["poisson", "fixed"], "Random or equal gaps; open loop.", flag_values=own
    )
    flags.DEFINE_integer("rows", 1, "Rows of made-up inputs.", 1, flag_values=own)
    flags.DEFINE_string("golden", None, "Folder of the export: its golden request's inputs.", flag_values=own)
    flags.DEFINE_float("warmup", 2.0, "Seconds before each load's measurement.", 0.0, flag_values=own)
    flags.DEFINE_float("window", 2.0, "Seconds of a window.", 0.01, flag_values=own)
    flags.DEFINE_float("tolerance", 0.1, "How far windows may be from their mean.", 0.01, flag_values=own)
    flags.DEFINE_float("max_seconds", 60.0, "Seconds of a load that is not stable.", 0.01, flag_values=own)
    flags.DEFINE_float("timeout", 10.0, "Seconds for a request.", 0.01, flag_values=own)
    flags.DEFINE_integer("processes", 1, "Processes of the generator.", 1, flag_values=own)
    flags.DEFINE_bool("tls", False, "TLS with the system's roots.", flag_values=own)
    flags.DEFINE_string("tls_ca", None, "PEM file of the server's root; TLS.", flag_values=own)
    flags.DEFINE_string("tls_cert", None, "PEM file of the client's certificate; TLS.", flag_values=own)
    flags.DEFINE_string("tls_key", None, "PEM file of its key.", flag_values=own)
    flags.DEFINE_enum("compression", None, ["gzip", "deflate"], "Of what is sent.", flag_values=own)
    flags.DEFINE_bool("json", False, "Print JSON instead of the table.", flag_values=own)
    flags.DEFINE_string("output", None, "File for the JSON.", flag_values=own)
    plot = "SVG file: latency by share of requests, and by throughput."
    flags.DEFINE_string("plot", None, plot, flag_values=own)
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
    except errors.ServingError as error:
        # Without a gRPC code, the client itself found the mistake, before it sent anything.
        return _fail(error, _FAILED if error.code else _USAGE)
    except (UsageError, golden.GoldenError, flags.Error, OSError) as error:
        return _fail(error, _USAGE)


def _fail(error: Exception, status: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _run(words: list[str], options: flags.FlagValues) -> int:
    if not words:
        raise UsageError("expected a model's name (--help explains)")
    loads = _loads(options)
    if options.plot and not options.plot.endswith(".svg"):
        raise UsageError(f"--plot={options.plot}: expected a name that ends in .svg")
    for name in ("output", "plot"):  # not after minutes of load
        path = options[name].value
        if path and not Path(path).absolute().parent.is_dir():
            raise UsageError(f"--{name}={path}: there is no folder {Path(path).absolute().parent}")
    target, about = _target(words[0], words[1:], options)
    plan = load.Plan(options.warmup, options.window, options.tolerance, options.max_seconds)
    local = all(address.startswith(_LOCAL) for address in options.server.split(","))
    note = _CLOSED_NOTE if isinstance(loads[0], load.Closed) else _OPEN_NOTE
    if not options.json:
        rows = ", ".join(f"{name} {spec}" for name, spec in about["inputs"].items())
        print(f"{about['model']} version {about['version']}, {about['signature']}: {rows or 'no inputs'}")
        print(note)
        if local:
            print("the server is on this machine: it shares its CPUs with the generator")
        print(f"\n{'load':>14} {'good/s':>9}" + "".join(f"{name:>10}" for name in load.PERCENTILES) + "  ms")
    results = []
    for each in loads:
        results.append(load.run(target, each, plan, options.processes))
        if not options.json:
            print(_line(results[-1]), flush=True)
    report = about | {
        "server": options.server,
        "server_on_this_machine": local,
        "note": note,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "plan": dataclasses.asdict(plan) | {"windows": load.WINDOWS, "timeout": target.timeout},
        "results": [_described(result) for result in results],
    }
    text = json.dumps(report, indent=None if options.json else 2) + "\n"
    if options.json:
        print(text, end="")
    if options.output:
        outputs.write(Path(options.output), text.encode())
    if options.plot:
        title = f"{about['model']} version {about['version']}, {about['signature']}"
        outputs.write(Path(options.plot), load_plot.svg(results, title).encode())
    return 0 if all(result.throughput for result in results) else _FAILED


def _loads(options: flags.FlagValues) -> list[load.Closed | load.Open]:
    if options.rate and options.concurrency:
        raise UsageError("give --concurrency (closed loop) or --rate (open loop), not both")
    loads: list[load.Closed | load.Open] = []
    for text in options.concurrency:
        if not text.isdecimal() or not int(text):
            raise UsageError(f"--concurrency={text}: expected whole numbers from 1, with commas between them")
        if int(text) > load.MAX_IN_FLIGHT * options.processes:
            raise UsageError(f"--concurrency={text}: at most {load.MAX_IN_FLIGHT:,} for each of --processes")
        loads.append(load.Closed(int(text)))
    for text in options.rate:
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            raise UsageError(f"--rate={text}: expected numbers above 0, with commas between them")
        if rate > load.MAX_RATE * options.processes:
            raise UsageError(f"--rate={text}: at most {load.MAX_RATE:,} for each of --processes")
        loads.append(load.Open(rate, options.arrivals))
    return loads or [load.Closed(1)]


def _target(
    model: str, words: list[str], options: flags.FlagValues
) -> tuple[load.Target, dict[str, Any]]:
    """The request, proved by sending it once, and what it is."""
    addresses, tls = options.server.split(","), _tls(options)
    shapes, values = random_inputs.shapes_in(words)
    with Client.connect(
        addresses, tls=tls, compression=options.compression, timeout=options.timeout
    ) as client:
        metadata = client.metadata(model, version=options.version, label=options.label)
        signature = metadata.signature(options.signature)
        given = _golden(options.golden, signature.name) if options.golden else {}
        given = inputs.same_rows(given | inputs.read(values, signature.inputs), signature.inputs)
        arrays = random_inputs.make(signature, given, shapes, options.rows)
        answer = client.predict(
            model,
            arrays,
            signature=signature.name,
            version=options.version,
            label=options.label,
            outputs=options.outputs or None,
        )
    request = wire_pb2.PredictRequest(output_filter=options.outputs)
    request.model_spec.name, request.model_spec.signature_name = model, signature.name
    if options.version is not None:
        request.model_spec.version.value = options.version
    elif options.label is not None:
        request.model_spec.version_label = options.label
    for name, array in arrays.items():
        cast = tensors.to_array(array, signature.inputs[name].dtype)
        tensors.write_proto(cast, request.inputs[name])
    data = request.SerializeToString()
    about = {
        "model": model,
        "version": answer.version,
        "signature": signature.name,
        "inputs": {name: _shape_text(array) for name, array in sorted(arrays.items())},
        "request_bytes": len(data),
    }
    return load.Target(addresses, data, options.timeout, tls, options.compression), about


def _tls(options: flags.FlagValues) -> bool | TLS:
    if options.tls_cert is None and options.tls_key is None and options.tls_ca is None:
        return options.tls
    return TLS(ca=options.tls_ca, key=options.tls_key, cert=options.tls_cert)


def _golden(folder: str, signature: str) -> dict[str, np.ndarray]:
    exports = golden.find(Path(folder))
    if len(exports) != 1:
        raise UsageError(f"--golden={folder} holds several models: name the folder of one")
    requests = {request.signature: request for request in golden.read(exports[0])}
    # An export's first signature is also its default.
    if signature == "serving_default" and requests:
        requests.setdefault(signature, next(iter(requests.values())))
    if signature not in requests:
        raise UsageError(f"--golden={folder} has no request for {signature!r}, it has {', '.join(requests)}")
    return requests[signature].inputs


def _shape_text(array: np.ndarray) -> str:
    return f"{'string' if array.dtype == object else array.dtype} {list(array.shape)}"


def _line(result: load.Result) -> str:
    latencies = "".join(f"{result.latency_ms.get(name, float('nan')):>10.2f}" for name in load.PERCENTILES)
    marks = [] if result.stable else ["not stable"]
    marks += [f"{count} {code}" for code, count in result.errors.items()]
    if result.bottleneck:
        marks.append(f"THE GENERATOR DISTURBS: {result.bottleneck}")
    return f"{result.load!s:>14} {result.throughput:>9.1f}{latencies}  {'; '.join(marks)}".rstrip()


def _described(result: load.Result) -> dict[str, Any]:
    described = dataclasses.asdict(result)
    kind = "closed" if isinstance(result.load, load.Closed) else "open"
    return described | {"load": {"loop": kind, **described["load"]}}


if __name__ == "__main__":
    sys.exit(main())
