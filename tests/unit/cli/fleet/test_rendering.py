"""What a lost worker left on the server is taken over or interrupted; the texts of the sampler become progress."""

import pytest
from wan_s2v_pack.cli.comfyui.errors import PromptFailed
from wan_s2v_pack.cli.comfyui.following import Text
from wan_s2v_pack.cli.fleet import rendering
from wan_s2v_pack.cli.fleet.job_lines import Job
from wan_s2v_pack.cli.fleet.rendering import Reporter, RunInUse, clear_server, describe, prompt_id_of, render
from wan_s2v_pack.cli.predict.graph import SAMPLER, quick_start

GRAPH = {"5": {"class_type": SAMPLER}, "6": {"class_type": "WanS2VSaveVideo"}}


class Server:
    """A ComfyUI with some prompts, each of which ends when it is interrupted."""

    url = "http://127.0.0.1:1"

    def __init__(self, running=(), waiting=(), history=None):
        self.running, self.waiting, self.records = list(running), list(waiting), dict(history or {})
        self.interrupted, self.ran = [], []
        self.error = None

    def queue_state(self):
        return list(self.running), list(self.waiting)

    def interrupt(self, prompt_id):
        self.interrupted.append(prompt_id)
        self.running = [item for item in self.running if item != prompt_id]
        self.waiting = [item for item in self.waiting if item != prompt_id]

    def history(self, prompt_id):
        return self.records.get(prompt_id)

    def forget(self, prompt_id):
        del self.records[prompt_id]

    def object_info(self):
        return {}

    def upload(self, path):
        return path.name

    def run(self, prompt, on_progress, *, on_stage, on_text, prompt_id, may_be_there):
        self.ran.append((prompt_id, may_be_there))
        on_text(Text(next(key for key, node in prompt.items() if node["class_type"] == SAMPLER), "clip 1 of 2, step 1/4, 0:01 elapsed"))
        if self.error:
            raise self.error
        return {key: {"images": [{"filename": "a.mp4", "subfolder": "", "type": "output"}]} for key in prompt if key == SAVED}


SAVED = next(key for key, node in quick_start().items() if node["class_type"] == "WanS2VSaveVideo")


@pytest.fixture(autouse=True)
def graph(monkeypatch):
    monkeypatch.setattr(rendering, "build_prompt", lambda *_: quick_start())
    monkeypatch.setattr(rendering, "readable", lambda path, *_: path)
    monkeypatch.setattr(rendering, "POLL_S", 0.0)


@pytest.fixture
def job(files):
    return Job.of({**files, "run_name": "song"})


def test_prompts_of_other_jobs_are_interrupted_and_that_of_this_one_is_not(job):
    own = prompt_id_of(job)
    server = Server(running=["other"], waiting=[own, "third"])
    clear_server(server, own)
    assert server.interrupted == ["other", "third"]
    assert server.queue_state() == ([], [own])


def test_a_prompt_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr(rendering, "LEFTOVER_S", 0.0)
    server = Server(running=["other"])
    monkeypatch.setattr(server, "interrupt", lambda _: None)
    with pytest.raises(TimeoutError, match="does not end the prompts other"):
        clear_server(server, "own")


@pytest.mark.parametrize(("status", "stays"), [("success", True), ("error", False)])
def test_a_failure_is_forgotten_before_the_next_try_and_a_success_is_used(job, status, stays):
    own = prompt_id_of(job)
    server = Server(history={own: {"status": {"status_str": status}}})
    clear_server(server, own)
    assert (own in server.records) == stays


def test_the_prompt_is_the_same_on_every_machine_and_another_with_other_options(files, job):
    assert prompt_id_of(Job.of(job.line)) == prompt_id_of(job)
    assert prompt_id_of(Job.of({**files, "run_name": "song", "seed": 2})) != prompt_id_of(job)


def test_a_prompt_may_be_there_already(job, tmp_path):
    server, heard, clips = Server(), [], []
    video = render(server, job, tmp_path, heard.append, clips.append)
    assert (video.filename, server.ran) == ("a.mp4", [(prompt_id_of(job), True)])
    assert (clips, [report["clip"] for report in heard]) == ([1], [1])
    assert server.client_id == prompt_id_of(job)  # the texts of a prompt go to the client that queued it


def test_a_run_that_another_server_holds_is_told_apart(job, tmp_path):
    server = Server()
    server.error = PromptFailed("run 'song' is in use by another process: wait", kind="RunStoreError")
    with pytest.raises(RunInUse):
        render(server, job, tmp_path, print, print)
    server.error = PromptFailed("out of memory", kind="OutOfMemoryError")
    with pytest.raises(PromptFailed):
        render(server, job, tmp_path, print, print)


def test_texts_of_the_sampler_are_told_at_each_clip_and_now_and_then(monkeypatch):
    told, clips, now = [], [], [0.0]
    monkeypatch.setattr(rendering.time, "monotonic", lambda: now[0])
    reporter = Reporter(GRAPH, told.append, clips.append)
    for after_s, node, text in [
        (0.0, "5", "clip 2 of 3, step 1/4, 0:01 elapsed, 1:40 left"),
        (0.5, "5", "clip 2 of 3, step 2/4, 0:02 elapsed"),
        (2.5, "5", "clip 2 of 3, decoding, 0:02 elapsed"),
        (0.0, "6", "clip 3 of 3, step 2/4, 0:02 elapsed"),
        (0.0, "5", "832x480"),
        (0.1, "5", "clip 3 of 3, step 1/4, 0:05 elapsed"),
    ]:
        now[0] += after_s
        reporter.on_text(Text(node, text))
    assert clips == [2, 3]
    assert told[0] == {"clip": 2, "clips": 3, "step": 1, "steps": 4, "left_s": 100.0}
    assert [(report["clip"], report["step"]) for report in told] == [(2, 1), (2, None), (3, 1)]
    assert [describe(report) for report in (*told, {})] == ["clip 2 of 3, step 1/4", "clip 2 of 3", "clip 3 of 3, step 1/4", "begun"]


def test_texts_of_the_live_sampler_are_told_too():
    told = []
    reporter = Reporter({"5": {"class_type": "WanS2VLiveSampler"}}, told.append, print)
    reporter.on_text(Text("5", "clip 2 of 3, step 1/4, 0:01 elapsed, 1:40 left"))
    assert told == [{"clip": 2, "clips": 3, "step": 1, "steps": 4, "left_s": 100.0}]
