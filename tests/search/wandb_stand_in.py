"""A local stand-in for W&B's server: the few calls that registering a sweep, agents and a logged run make, no more.

It is not W&B: it searches nothing (a sweep's trials are the list it was given), keeps everything in memory and checks
no key. What a client sent can be read from its fields. Written from the requests of wandb 0.31.
"""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = "tester"
PROJECT = "kws"
"""The one project that is there already."""
KEY = "0123456789" * 4  # the length of a key; nobody's


@dataclass
class StandIn:
    """What the server was told, and what it tells agents."""

    trials: list[dict[str, Any]]
    """Parameters of each trial, handed out in this order."""
    url: str = ""
    sweeps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Id -> variables of its registration."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Id -> variables of its registration, and `history` (rows), `summary`, `exit` (code)."""
    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Run id -> parameters, of the trials that agents have fetched."""
    agents: list[str] = field(default_factory=list)
    stop_after: int | None = None
    """Early termination: stop every run that has logged this many rows of history."""
    artifacts: list[str] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    """Saved workspaces and reports."""
    unknown: list[str] = field(default_factory=list)
    """Requests it has no answer to."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def graphql(self, name: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The data of an answer; None for a request it does not know."""
        project = {"id": "p", "name": variables.get("projectName") or variables.get("project") or "uncategorized"}
        project["entity"] = {"id": "e", "name": ENTITY}
        match name:
            case "Viewer":
                viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
                return {"viewer": {**viewer, "teams": {"edges": []}}}
            case "UpsertSweep":
                sweep = f"sweep{len(self.sweeps)}"
                self.sweeps[sweep] = variables
                return {"upsertSweep": {"sweep": {"name": sweep, "project": project}, "configValidationWarnings": []}}
            case "SweepWithRuns":
                sweep = variables["sweep"]
                found = {"id": sweep, "name": sweep, "state": "RUNNING", "runs": {"edges": []}}
                return {"project": {"sweep": {**found, "config": self.sweeps[sweep]["config"]}}}
            case "CreateAgent":
                self.agents.append(f"agent{len(self.agents)}")
                return {"createAgent": {"agent": {"id": self.agents[-1]}}}
            case "Heartbeat":
                commands = self.commands(json.loads(variables["runState"]))
                return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}
            case "RunResumeStatus":
                return {"model": {"id": "p", **project, "bucket": None}}
            case "UpsertBucket":
                run = self.runs.setdefault(variables["name"], {"history": [], "summary": {}, "exit": None})
                run.update({key: value for key, value in variables.items() if value is not None})
                bucket = {"id": variables["name"], "name": variables["name"], "sweepName": variables.get("sweep")}
                bucket |= {"displayName": run.get("displayName"), "config": "{}", "historyLineCount": 0}
                return {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": True}}
            case "CreateRunFiles":
                files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in variables["files"]]
                return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "OrganizationCoreWeaveOrganizationID":
                return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":  # said to be there already, so that no file is sent
                self.artifacts.append(variables["input"]["artifactCollectionName"])
                sequence = {"id": "s", "latestArtifact": None}
                artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}
                return {"createArtifact": {"artifact": artifact}}
            case "GetProjects":
                node = {"id": "p", "name": PROJECT, "entityName": ENTITY, "createdAt": "2026-11-26T00:00:00"}
                edges = [{"node": {**node, "isBenchmark": False, "user": None}}]
                return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}}
            case "ProjectInternalId":
                return {"project": {"id": "p", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}}
            case "UpsertView2" | "upsertView":
                self.views.append(variables)
                view = {"id": f"view{len(self.views)}", "type": variables["type"], "spec": variables["spec"]}
                view |= {key: variables.get(key) for key in ("name", "displayName", "description")}
                view["project"] = {"name": variables["projectName"], "entityName": variables["entityName"]}
                return {"upsertView": {"view": view, "inserted": True}}
            case "UseArtifact":
                return {"useArtifact": {"artifact": {"id": "a"}}}
        self.unknown.append(name)
        return None

    def commands(self, states: dict[str, Any]) -> list[dict[str, Any]]:
        """What an agent with these runs is to do next."""
        if self.stop_after is not None:
            stopped = [run for run in states if len(self.runs.get(run, {}).get("history", [])) >= self.stop_after]
            if stopped:
                return [{"type": "stop", "run_id": run} for run in stopped]
        if states:
            return []
        if len(self.given) == len(self.trials):
            return [{"type": "exit"}]
        run = f"run{len(self.given)}"
        self.given[run] = self.trials[len(self.given)]
        args = {name: {"value": value} for name, value in sorted(self.given[run].items())}
        program = yaml.safe_load(list(self.sweeps.values())[-1]["config"]).get("program")
        return [{"type": "run", "run_id": run, "program": program, "args": args}]

    def file_stream(self, run: str, content: dict[str, Any]) -> None:
        for name, file in content.get("files", {}).items():
            if name == "wandb-history.jsonl":
                self.runs[run]["history"] += map(json.loads, file["content"])
            elif name == "wandb-summary.json":
                self.runs[run]["summary"] = json.loads(file["content"][-1])
        if content.get("complete"):
            self.runs[run]["exit"] = content["exitcode"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that ends without a word
            super().handle()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        result: dict[str, Any] = {}
        with self.stand_in.lock:
            if self.path == "/graphql":
                request = json.loads(body)
                name = re.match(r"\s*(?:query|mutation)\s+(\w+)", request["query"])
                operation = name[1] if name else request["query"]
                found = self.stand_in.graphql(operation, request.get("variables") or {})
                error = {"errors": [{"message": f"the stand-in does not know {operation}"}]}
                result = error if found is None else {"data": found}
            elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                self.stand_in.file_stream(stream[1], json.loads(body))
        data = json.dumps(result).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer


@contextmanager
def serving(trials: list[dict[str, Any]]) -> Iterator[StandIn]:
    """A stand-in that listens on a free port of 127.0.0.1."""
    stand_in = StandIn(trials)
    handler = type("Handler", (_Handler,), {"stand_in": stand_in})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
