"""Puts exports in front of users, and takes them back: `<base>/<model>/<version>/`, labels, audit log.

    base = Base(pathlib.Path("served"), servers=["127.0.0.1:8500"])
    base.push(pathlib.Path("candidates/gan_fashion/1"))
    base.rollback("gan_fashion")

Whatever is changed is first written down in `<base>/.pending.json`, so that after a kill the next command, of
whatever kind, completes it: until then, servers find a complete version under every number, and labels that
point to versions which are there. One command at a time changes a base; judging and validating run beside
others.

No request is lost because no server ever unloads a version that a label of its own points to: a label moves
when the new version is loaded (see `serving.rollout`); and before a version goes, or another comes that may
push one out, `_settle` waits until the servers have followed. No TensorFlow in this process.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence

from serving import audit, compatibility, doctor, errors, golden, rollout
from serving.client import Client
from zoo import blessing, publish
from zoo.errors import UserError
from zoo.files import atomic_write, sync

_PENDING = ".pending.json"
_LOCK = ".push.lock"

_FOLLOW_SECONDS = 300.0  # a model may take minutes to load and warm up
_PROBE_SECONDS = 0.2
_ASK_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A change that has begun."""

    entry: audit.Entry
    incoming: str = ""  # of a push: where the version lies in the model's folder until it has its number


class Base:
    """A folder of models that is served."""

    def __init__(
        self,
        folder: pathlib.Path,
        servers: Sequence[str] = (),
        settle_seconds: float = 5.0,
        say: Callable[[str], object] = print,
    ) -> None:
        """
        Args:
            folder: `<base>`; a push makes it.
            servers: gRPC addresses of the servers that follow `<base>/models.config`: steps wait for them.
            settle_seconds: where none is named, how long servers may take to follow a change.
            say: is told, line by line, what is done.
        """
        self._folder = folder.resolve()
        self._servers = servers
        self._settle_seconds = settle_seconds
        self._say = say

    def push(
        self,
        export: pathlib.Path,
        label: str = rollout.STABLE,
        engine: str = "embedded",
        reason: str = "",
        force: bool = False,
    ) -> None:
        """Validates an export in a server process of its own and makes it the next version of its model.

        What already is the stable version (for a canary: the canary) is said to be so, and nothing is done.

        Args:
            export: `<anything>/<model>/<version>`, or a version that was rolled back.
            label: "stable", or "canary": served beside the stable version.
            engine: what validates it: "embedded" or "tfserving".
            reason: why, for the audit log.
            force: it is pushed although it is not blessed, or breaks clients.

        Raises:
            UserError: it is no export, is not blessed, breaks clients, did not pass validation, another
                version is the canary, or a server did not follow; but for the last, nothing was published.
        """
        export = export.resolve()
        digest, model = blessing.digest(export), export.parent.name
        if not (export.name.isdecimal() or export.name.startswith(publish.ROLLED_BACK)):
            raise UserError(f"{export}: expected <folder>/<model>/<version>: it names the served model")
        for server in self._servers:
            self._ask(server)
        with self._locked():
            if self._is_there(model, label, digest):
                return
            live, _ = self._live(model)
        entry = audit.Entry("push", model, None, live, digest, label, forced=force, reason=reason)
        parent = self._folder / model
        try:
            entry = self._judged(entry, export)
            with publish.incoming(parent) as incoming:
                # Under the number that it will most likely have. What is checked is the copy.
                number = publish.next_version(parent)
                copy = incoming / str(number)
                _copy(export, copy)
                if blessing.digest(copy) != digest:
                    raise UserError(f"{export} was changed while it was copied")
                entry = dataclasses.replace(entry, validation=self._validate(entry, copy, engine))
                with self._locked():
                    if self._is_there(model, label, digest):
                        return
                    live, _ = self._live(model)
                    entry = self._compatible(dataclasses.replace(entry, from_version=live), export)
                    self._settle(model)
                    self._change(_Pending(entry, f"{incoming.name}/{number}"))
        except _Refused as refused:
            with self._locked():
                entry = dataclasses.replace(entry, action="refused", reason=str(refused))
                audit.append(self._folder, audit.sign(entry))
            raise UserError(str(refused)) from refused.__cause__

    def promote(self, model: str, reason: str = "") -> None:
        """Makes the canary the stable version; `reason` is kept in the audit log.

        Raises:
            UserError: there is none, or a server did not follow.
        """
        with self._locked_for("promote", model) as is_done:
            if is_done:
                return
            stable, canary = self._live(model)
            if canary is None:
                raise UserError(
                    f"{model} has no canary to promote: push one with --label=canary (stable is {stable})"
                )
            self._change(_Pending(self._entry("promote", model, canary, stable, reason)))

    def rollback(self, model: str, reason: str = "") -> None:
        """Drops the canary if there is one; else returns to the last blessed version before the stable one.

        The version that goes is kept as `<model>/.rolled_back-<version>`, where a push finds it; `reason` in
        the audit log.

        Raises:
            UserError: there is nothing to return to, or a server did not follow.
        """
        with self._locked_for("rollback", model) as is_done:
            if is_done:
                return
            stable, canary = self._live(model)
            target = stable if canary is not None else self._blessed_before(model, stable)
            self._change(_Pending(self._entry("rollback", model, target, canary or stable, reason)))

    def history(self) -> tuple[list[audit.Entry], list[int]]:
        """The audit log: its entries, and the numbers of lines that a crash cut short."""
        self._check_folder()
        return audit.read(self._folder)

    # What is there.

    def _live(self, model: str) -> tuple[int | None, int | None]:
        """(stable version, canary); of a folder that no push has filled the stable version is the newest."""
        there = publish.versions(self._folder / model)
        labels = rollout.labels(self._folder, model)
        stable = labels.get(rollout.STABLE)
        if stable not in there:
            stable = there[-1] if there else None
        canary = labels.get(rollout.CANARY)
        return stable, canary if canary in there and canary != stable else None

    def _is_there(self, model: str, label: str, digest: str) -> bool:
        """Is this content served under the label already? Raises UserError if a canary is in the way."""
        stable, canary = self._live(model)
        if canary is not None:
            if label == rollout.CANARY and self._digest(model, canary) == digest:
                self._say(f"{model}: version {canary}, the canary, has this very content: nothing to do")
                return True
            raise UserError(
                f"{model}: version {canary} is the canary beside version {stable}: "
                f"promote it or roll it back first (atelier-push promote|rollback {model})"
            )
        if stable is None:
            if label == rollout.CANARY:
                raise UserError(f"{model} has no stable version yet: push it without --label=canary")
            return False
        if self._digest(model, stable) == digest:
            self._say(f"{model}: version {stable}, which is stable, has this very content: nothing to do")
            return True
        return False

    def _digest(self, model: str, version: int) -> str:
        return blessing.digest(self._folder / model / str(version))

    def _blessed_before(self, model: str, stable: int | None) -> int:
        there = [v for v in publish.versions(self._folder / model) if stable is not None and v < stable]
        for version in reversed(there):
            with contextlib.suppress(UserError):
                blessing.check(self._folder / model / str(version))
                return version
        listed = f"before it are {', '.join(map(str, there))}" if there else "there is none before it"
        raise UserError(
            f"{self._folder / model} has no blessed version before {stable} to return to; {listed}"
            if stable is not None
            else f"{self._folder / model} has no version"
        )

    def _entry(
        self, action: str, model: str, version: int | None, before: int | None, reason: str
    ) -> audit.Entry:
        assert version is not None
        path = self._folder / model / str(version)
        judged = blessing.read(path)
        digest, blessed = blessing.digest(path), bool(judged and judged.blessed)
        return audit.Entry(action, model, version, before, digest, blessed=blessed, reason=reason)

    # Judging a candidate.

    def _judged(self, entry: audit.Entry, export: pathlib.Path) -> audit.Entry:
        """The entry with `blessed`. Raises _Refused unless it is blessed and compatible, or forced."""
        try:
            blessing.check(export)
        except UserError as error:
            if not entry.forced:
                raise _Refused(f"{error} (--force --reason=... pushes it all the same)") from None
            self._say(f"not blessed, but forced: {error}")
        else:
            entry = dataclasses.replace(entry, blessed=True)
        return self._compatible(entry, export)

    def _compatible(self, entry: audit.Entry, export: pathlib.Path) -> audit.Entry:
        if entry.from_version is not None:
            live = self._folder / entry.model / str(entry.from_version)
            self._broken(entry, compatibility.breaks(live, export))
        return entry

    def _broken(self, entry: audit.Entry, found: list[str]) -> None:
        """Raises _Refused for what clients of the live version would miss, unless it is forced."""
        if not found:
            return
        text = f"clients of {entry.model} version {entry.from_version} would break: {'; '.join(found)}"
        if not entry.forced:
            raise _Refused(f"{text} (serve it under another name, or --force --reason=...)")
        self._say(f"forced: {text}")

    def _validate(self, entry: audit.Entry, copy: pathlib.Path, engine: str) -> str:
        """What came of the golden requests, in words. Raises _Refused."""
        version = golden.Export(entry.model, int(copy.name), copy)
        self._say(f"{entry.model}: replaying its golden requests in a server of its own ({engine})")
        try:
            requests = golden.read(version)
            with doctor.serving([version], engine) as server, Client.connect(server.address) as client:
                checks = list(doctor.examine(doctor.GrpcServer(client), [version]))
                findings = [f"{c.signature or 'the model'}: {x}" for c in checks for x in c.findings]
                if findings:
                    raise _Refused(f"{entry.model} did not pass validation: {'; '.join(findings)}")
                self._broken(entry, self._unanswered(entry, client, version))
        except golden.GoldenError as error:
            raise _Refused(f"{entry.model} cannot be validated: {error}") from error
        except errors.ServingError as error:
            lines = str(error).splitlines()
            text = f"{lines[0]} {lines[-1]}" if len(lines) > 1 else lines[0]
            raise _Refused(f"{entry.model} did not pass validation: {text}") from error
        return f"golden requests: {len(requests)} of {len(requests)} agree ({engine})"

    def _unanswered(self, entry: audit.Entry, client: Client, candidate: golden.Export) -> list[str]:
        """What the live version answers and the candidate refuses: for lack of a new input, say."""
        found = []
        live = self._folder / entry.model / str(entry.from_version)
        try:
            requests = golden.read(dataclasses.replace(candidate, path=live))
        except golden.GoldenError:
            return []  # the first version, or one that no exporter of ours wrote
        for request in requests:
            try:
                client.predict(
                    entry.model, request.inputs, signature=request.signature, version=candidate.version
                )
            except errors.ServingError as error:
                found.append(f"{request.signature} refuses its request: {' '.join(str(error).split())}")
        return found

    # Changing.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[audit.Entry | None]:
        """Nobody else changes this base in the `with` block; what was interrupted is completed, and given."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say(f"waiting for another command on {self._folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._recover()

    @contextlib.contextmanager
    def _locked_for(self, action: str, model: str) -> Iterator[bool]:
        """The same for a model that is there; gives whether what was interrupted and completed was this."""
        self._check_folder()
        for server in self._servers:
            self._ask(server)
        with self._locked() as finished:
            if not (self._folder / model).is_dir():
                there = ", ".join(sorted(p.name for p in self._folder.iterdir() if publish.versions(p)))
                raise UserError(f"{self._folder} has no model {model!r}; it has {there or 'none'}")
            yield finished is not None and (finished.action, finished.model) == (action, model)

    def _check_folder(self) -> None:
        if not self._folder.is_dir():
            raise UserError(f"{self._folder} is no folder of models: --base_dir names the one that is served")

    def _recover(self) -> audit.Entry | None:
        path = self._folder / _PENDING
        if not path.exists():
            return None
        values = json.loads(path.read_text())
        pending = _Pending(audit.Entry(**values["entry"]), values["incoming"])
        self._say(f"completing the {pending.entry.action} of {pending.entry.model} that was interrupted")
        return self._finish(pending)

    def _change(self, pending: _Pending) -> None:
        pending = dataclasses.replace(pending, entry=audit.sign(pending.entry))
        atomic_write(self._folder / _PENDING, json.dumps(dataclasses.asdict(pending)).encode())
        self._finish(pending)
        if self._servers:
            self._settle(pending.entry.model)

    def _finish(self, pending: _Pending) -> audit.Entry | None:
        """Every step may have been done before. None: there was nothing left to complete."""
        entry: audit.Entry | None
        if pending.entry.action == "push":
            entry = self._finish_push(pending)
        elif pending.entry.action == "promote":
            entry = pending.entry
            self._assign(entry)
        else:
            entry = pending.entry
            self._finish_rollback(entry)
        if entry is not None:
            written, _ = audit.read(self._folder)
            if written[-1:] != [entry]:
                audit.append(self._folder, entry)
            # Said before it counts as done: who repeats a command that said nothing must not do it twice.
            self._say(_result(entry))
        (self._folder / _PENDING).unlink()
        sync(self._folder)
        return entry

    def _finish_push(self, pending: _Pending) -> audit.Entry | None:
        model, parent = pending.entry.model, self._folder / pending.entry.model
        incoming = parent / pending.incoming
        if incoming.exists():
            version = int(publish.publish(incoming, parent).name)
            incoming.parent.rmdir()
        else:
            # It has its number already: the newest of this content.
            there = publish.versions(parent)
            found = [v for v in reversed(there) if self._digest(model, v) == pending.entry.digest]
            if not found:
                self._say(f"{incoming} is gone: the push of {model} has to be repeated")
                return None
            version = found[0]
        entry = dataclasses.replace(pending.entry, version=version)
        self._assign(entry)
        return entry

    def _finish_rollback(self, entry: audit.Entry) -> None:
        model, target, leaving = entry.model, entry.version, entry.from_version
        assert target is not None and leaving is not None
        parent = self._folder / model
        # No label points to those in between. They go first: of the rest, the newest two are loaded.
        for version in publish.versions(parent):
            if target < version < leaving:
                publish.set_aside(parent, version)
        self._assign(entry)
        self._settle(model, newest=None)
        # All that are newer: the newest is what a server gives to requests without a label.
        for version in publish.versions(parent):
            if version > target:
                publish.set_aside(parent, version)

    def _assign(self, entry: audit.Entry) -> None:
        assert entry.version is not None
        stable = entry.version
        if entry.label == rollout.CANARY:
            assert entry.from_version is not None
            stable = entry.from_version
        rollout.assign(self._folder, entry.model, stable, entry.version)

    # The servers that follow.

    def _settle(self, model: str, newest: int | None = -1) -> None:
        """Returns when the servers have followed models.config as it is now, as far as this model goes.

        Args:
            newest: the version that requests without a label are to get; -1: the newest; None: any.
        Raises:
            UserError: a server did not.
        """
        labels = rollout.labels(self._folder, model)
        if not labels:
            return  # none serves it yet
        if not self._servers:
            age = time.time() - (self._folder / rollout.FILE).stat().st_mtime
            time.sleep(min(max(0.0, self._settle_seconds - age), self._settle_seconds))
            return
        wanted: dict[str | None, int] = {label: labels[label] for label in (rollout.STABLE, rollout.CANARY)}
        if newest is not None:
            wanted[None] = publish.versions(self._folder / model)[-1]
        for server in self._servers:
            self._await(server, model, wanted)

    def _await(self, server: str, model: str, wanted: dict[str | None, int]) -> None:
        deadline = time.monotonic() + _FOLLOW_SECONDS
        for label, version in wanted.items():
            while (answer := self._version(server, model, label)) != version:
                if time.monotonic() > deadline:
                    asked = f"as {label!r}" if label else "to requests without a label"
                    raise UserError(
                        f"{server} does not serve version {version} of {model} {asked} after "
                        f"{_FOLLOW_SECONDS:.0f} s ({answer}): its log says why; is it started with "
                        f"--model_config_file={self._folder / rollout.FILE}, "
                        "--model_config_file_poll_wait_seconds and "
                        "--allow_version_labels_for_unavailable_models?"
                    )
                time.sleep(_PROBE_SECONDS)

    @staticmethod
    def _version(server: str, model: str, label: str | None) -> int | str:
        """The version that answers, or why none does. By a new client: it would remember the last answer."""
        try:
            with Client.connect(server, timeout=_ASK_SECONDS) as client:
                return client.metadata(model, label=label).version
        except errors.ServingError as error:
            return " ".join(str(error).split())

    @staticmethod
    def _ask(server: str) -> None:
        """Raises UserError if nothing answers there."""
        try:
            with Client.connect(server, timeout=_ASK_SECONDS) as client:
                client.status("any")
        except errors.ModelNotFound:
            return
        except errors.ServingError as error:
            raise UserError(f"--servers={server}: {' '.join(str(error).split())}") from error


class _Refused(Exception):
    """A candidate may not be published, and the audit log is to say so."""


def _copy(export: pathlib.Path, copy: pathlib.Path) -> None:
    try:
        shutil.copytree(export, copy)
    except OSError as error:
        # That of copytree lists (from, to, why) for each file.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise UserError(f"cannot copy {export} to {copy.parent} ({reason})") from error


def _result(entry: audit.Entry) -> str:
    version, before = entry.version, entry.from_version
    if entry.action == "rollback":
        aside = f"{publish.ROLLED_BACK}{before}"
        return f"{entry.model}: back to version {version}; version {before} lies in {aside}"
    if entry.label == rollout.CANARY:
        return f"{entry.model}: version {version} is the canary beside version {before}"
    return f"{entry.model}: version {version} is stable" + (f", after version {before}" if before else "")
