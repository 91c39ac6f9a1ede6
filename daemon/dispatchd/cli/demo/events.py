"""Jobs of the demo, made from real payloads of GitHub."""

from importlib.resources import files
from typing import Any, Final

from attrs import frozen

from dispatchd.agent.endpoint.wire import job_to_wire
from dispatchd.protocol.github_event import job_from_event
from dispatchd.protocol.json_text import loads


@frozen
class Event:
    """A job of the demo: its id, its payload in `demo_data/`, its workflow, and the state in which it has to end."""

    job_id: str
    payload: str
    workflow: str
    expected: str = "succeeded"

    @property
    def document(self) -> dict[str, Any]:
        """Job as it is submitted to a hub."""
        file = files("dispatchd") / "demo_data" / f"{self.payload}.json"
        payload = loads(file.read_text(encoding="utf-8"))
        event = self.payload.partition(".")[0]
        job = job_from_event(self.job_id, self.workflow, event, payload)
        return {**job_to_wire(job), "payload": payload}


ARRIVALS: Final = (
    Event("push", "push", "show-event"),
    Event("comment", "issue_comment.created", "show-event"),
    Event("release", "release.published", "show-event"),
    Event("dispatch", "workflow_dispatch", "show-event"),
    Event("rerun", "check_run.rerequested", "failing-tests", "failed"),
)
BUILD: Final = Event("build", "pull_request.opened", "build", "failed")
DEPLOY: Final = Event("deploy", "push", "deploy")
TRAINING: Final = Event("training", "workflow_dispatch", "training", "aborted")
