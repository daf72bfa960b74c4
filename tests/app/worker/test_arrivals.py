"""Grammars on the way to a slot and in one: who waits for them, who does not, and what they allow."""

import dataclasses
import json
import random
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch

from app.engine.jobs import Grammar, Sampling, SequenceJob, WorkerConfig
from app.worker.arrivals import NO_GRAMMARS
from app.worker.continuous import ContinuousBatcher
from app.worker.grammars import GrammarRefused, Grammars, GrammarsBusy
from app.worker.sequences import SequenceRunner
from app.worker.thread import WorkerThread
from tests import fake_sequences as fakes
from tests.app.worker.test_loop import Peer

CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0.0)
EOS = fakes.EOS


class Words:
    """Allows the texts of a list, or what goes on from them; its `text` says which, apart by spaces."""

    def __init__(self, text):
        self.words, self.said = text.split(), b""

    def allowed(self):
        mask = np.zeros(fakes.VOCAB, bool)
        for word in self.words:
            if word.encode() == self.said:
                mask[EOS] = True
            elif word.encode().startswith(self.said):
                mask[word.encode()[len(self.said)]] = True
        return mask

    def accept(self, token):
        if not self.allowed()[token]:
            raise ValueError("not allowed")
        self.said += bytes([token])
        if self.said.endswith(b"!"):
            raise GrammarRefused("the text can't go on")


class FakeGrammars:
    """Compiles when told to: `refuse` in the text refuses, `full` has no room for it, `slow` waits for `let`."""

    def __init__(self):
        self.held, self.compiled = [], 0

    def compile(self, grammar):
        future = Future()
        if "refuse" in grammar.text:
            future.set_exception(GrammarRefused("a bad grammar"))
        elif "full" in grammar.text:
            future.set_exception(GrammarsBusy("too many"))
        elif "slow" in grammar.text:
            self.held.append((future, grammar))
        else:
            self.compiled += 1
            future.set_result(Words(grammar.text))
        return future

    def let(self):
        for future, grammar in self.held:
            if future.set_running_or_notify_cancel():
                future.set_result(Words(grammar.text.replace("slow", "")))
        self.held.clear()


class Bench:
    def __init__(self, grammars=None, slots=4, network=None):
        self.grammars = grammars
        self.runner = SequenceRunner(network or fakes.Digest(), CPU, slots)
        self.batcher = ContinuousBatcher(self.runner, lambda: False, grammars)
        self.tokens, self.ends, self.refused, self.errors, self.results = {}, {}, {}, {}, []

    def submit(self, number, prompt="ab", max_tokens=30, *, words=None, sampling=GREEDY, stops=(EOS,), **fields):
        grammar = None if words is None else Grammar("regex", words)
        prompt = tuple(prompt.encode())
        self.batcher.submit(
            number, SequenceJob("m", prompt, max_tokens, number, sampling, stops, grammar=grammar, **fields)
        )
        self.tokens[number] = []
        return self

    def tick(self):
        run = self.batcher.begin()
        if run is None:
            return None
        result = run(lambda _: None)
        self.results.append(result)
        for chunk in result.chunks:
            self.tokens[chunk.job] += chunk.tokens
            for kept, value in ((self.ends, chunk.finish), (self.refused, chunk.refused), (self.errors, chunk.error)):
                if value is not None:
                    kept[chunk.job] = value
        return result

    def drain(self):
        while self.batcher.ready(0):
            self.tick()
        return self

    def said(self, number):
        return bytes(self.tokens[number]).decode()


# what is allowed


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(temperature=2.0, top_k=3), Sampling(top_p=0.5)])
def test_a_text_is_one_of_those_allowed(sampling):
    bench = Bench(FakeGrammars())
    for number in range(8):
        bench.submit(number, "abcdefgh"[: number + 1], words="cat dog door", sampling=sampling)
    bench.drain()
    assert {bench.said(number) for number in range(8)} <= {"cat", "dog", "door"}
    assert set(bench.ends.values()) == {"stop"}


def test_constrained_rows_make_one_step_a_tick_and_others_are_as_they_are_alone():
    wanted = Bench().submit(1).drain().tokens[1]
    bench = Bench(FakeGrammars()).submit(1).submit(2, words="aaaaaaaaaa")
    for _ in range(4):
        bench.tick()
    assert len(bench.tokens[1]) == 4, "the first token, and one in each tick"
    bench.drain()
    assert bench.tokens[1] == wanted
    assert bench.said(2) == "aaaaaaaaaa"


def test_a_text_ends_when_nothing_else_may_follow():
    bench = Bench(FakeGrammars()).submit(1, words="hello").drain()
    assert (bench.said(1), bench.ends) == ("hello", {1: "stop"})
    assert sum(result.rows for result in bench.results) == 4, "the end is not drawn"


def test_a_text_that_may_end_and_may_go_on_is_the_model_s_choice():
    bench = Bench(FakeGrammars())
    for number in range(40):
        bench.submit(number, "xyz"[: number % 3 + 1], words="a ab", sampling=Sampling(temperature=3.0))
    bench.drain()
    assert {bench.said(number) for number in range(40)} == {"a", "ab"}


def test_only_an_empty_text_fits():
    class Empty(FakeGrammars):
        def compile(self, grammar):
            future = Future()
            words = Words("")
            words.words = [""]
            future.set_result(words)
            return future

    bench = Bench(Empty()).submit(1, words="").drain()
    assert (bench.tokens[1], bench.ends) == ([], {1: "stop"})
    assert bench.batcher.busy == 0


def test_so_many_tokens_and_no_more():
    bench = Bench(FakeGrammars()).submit(1, max_tokens=3, words="hello").drain()
    assert (bench.said(1), bench.ends) == ("hel", {1: "length"})


def test_a_scored_prompt_is_not_asked_of_the_grammar():
    bench = Bench(FakeGrammars()).submit(1, "what?", words="yes no", score_prompt=True).drain()
    assert bench.said(1) in {"hat?yes", "hat?no"}


def test_a_grammar_that_gives_up_half_way_refuses_its_sequence_alone():
    bench = Bench(FakeGrammars()).submit(1, words="ab!cd").submit(2, words="abcd").drain()
    assert bench.refused == {1: "the text can't go on"}
    assert bench.said(2) == "abcd"
    assert bench.batcher.waiting == 0


def test_who_runs_again_has_a_matcher_at_its_beginning():
    bench = Bench(FakeGrammars())
    bench.submit(1, words="abcdefghijklmnopqrstuvwxyz").submit(2, "\x01S", 40, stops=()).drain()
    assert bench.said(1) == "abcdefghijklmnopqrstuvwxyz"
    assert bench.errors == {2: "the model raised ValueError"}
    assert bench.grammars.compiled == 2


# waiting


def test_without_grammars_a_constrained_job_is_refused():
    bench = Bench().submit(1, words="a").submit(2).drain()
    assert bench.refused == {1: NO_GRAMMARS}
    assert bench.ends.keys() == {2}
    assert bench.batcher.waiting == 0


def test_a_bad_grammar_is_refused_and_nobody_else():
    bench = Bench(FakeGrammars()).submit(1, words="refuse").submit(2, words="ok").drain()
    assert bench.refused == {1: "a bad grammar"}
    assert bench.said(2) == "ok"


def test_who_finds_no_room_among_the_grammars_is_told_so():
    bench = Bench(FakeGrammars()).submit(1, words="refuse").submit(2, words="full").submit(3, words="ok").drain()
    assert bench.refused == {1: "a bad grammar", 2: "too many"}
    assert [chunk.job for result in bench.results for chunk in result.chunks if chunk.busy] == [2]
    assert bench.batcher.waiting == 0


def test_who_waits_for_a_grammar_holds_up_nobody_and_costs_nothing():
    bench = Bench(FakeGrammars(), slots=1).submit(1, words="slow").submit(2, max_tokens=3)
    bench.drain()
    assert bench.ends == {2: "length"}
    assert (bench.batcher.waiting, bench.batcher.ready(0), bench.batcher.begin()) == (1, False, None)
    woken = []
    bench.batcher.wake = lambda: woken.append(True)
    bench.grammars.let()
    assert woken == [True]
    assert bench.batcher.ready(0)
    bench.drain()
    assert bench.batcher.waiting == 0
    assert bench.ends[1] == "stop"


def test_who_waits_for_a_grammar_may_leave():
    bench = Bench(FakeGrammars()).submit(1, words="slow").submit(2, words="slow x")
    bench.batcher.cancel({1})
    bench.grammars.let()
    bench.drain()
    assert bench.said(2) == "x"
    assert bench.tokens[1] == []
    assert bench.batcher.waiting == 0


# minimal length


@pytest.mark.parametrize("least", [0, 1, 5, 9, 20])
@pytest.mark.parametrize("forced", [False, True])
def test_no_stop_token_before_the_least_length(least, forced):
    """All tokens but one end the text: that one it says until it may say another, and then it is over."""
    stops = tuple(token for token in range(fakes.VOCAB) if token != 200)
    bench = Bench(network=fakes.Counting()).submit(1, "cc", 25, stops=stops, min_tokens=least, score_prompt=forced)
    bench.drain()
    assert bench.tokens[1] == [ord("c")] * forced + [200] * least
    assert bench.ends[1] == "stop"


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=2.0), Sampling(top_k=2), Sampling(min_p=0.9)])
def test_the_least_length_of_one_changes_nothing_for_others(sampling):
    alone = {n: Bench().submit(n, "xy", 20, sampling=sampling, stops=(7, 9, 200)).drain().tokens[n] for n in (1, 2)}
    bench = Bench().submit(1, "xy", 20, sampling=sampling, stops=(7, 9, 200))
    bench.submit(2, "xy", 20, sampling=sampling, stops=(7, 9, 200), min_tokens=0)
    bench.submit(3, "xy", 20, sampling=sampling, stops=tuple(range(250)), min_tokens=18).drain()
    assert {1: bench.tokens[1], 2: bench.tokens[2]} == alone
    assert len(bench.tokens[3]) >= 18
    assert min(bench.tokens[3][:18]) >= 250


# with the real library


@pytest.fixture(scope="module")
def grammars(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(fakes.tokenizer_file())
    made = Grammars(path, fakes.VOCAB, (EOS,))
    yield made
    made.close()


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=2.0), Sampling(top_p=0.9, repetition_penalty=1.3)])
def test_a_schema_is_kept_by_a_model_that_knows_nothing_of_it(grammars, sampling):
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "large": {"type": "boolean"}},
        "required": ["colour", "large"],
        "additionalProperties": False,
    }
    bench, woken = Bench(grammars), threading.Semaphore(0)
    bench.batcher.wake = woken.release
    for number in range(6):
        job = SequenceJob(
            "m", (65 + number,), 60, number, sampling, (EOS,), grammar=Grammar("json_schema", json.dumps(schema))
        )
        bench.tokens[number] = []
        bench.batcher.submit(number, job)
    while bench.batcher.waiting:
        if not bench.batcher.ready(0):
            assert woken.acquire(timeout=60)
        bench.tick()
    for number in range(6):
        told = json.loads(fakes_text(bench.tokens[number]))
        assert told["colour"] in {"red", "green"}
        assert told["large"] in {True, False}


def fakes_text(tokens):
    letters = {fakes.TH: b"th", fakes.THE: b"the", fakes.ACUTE: "é".encode()}
    return b"".join(letters.get(token) or bytes([token]) for token in tokens).decode()


# in the long run


def test_a_storm_of_grammars_leaves_nothing_behind(caplog):
    """Compiled by other threads meanwhile; some refused, some given up, some of them run again."""
    caplog.set_level("ERROR", "genserve.worker")
    rng, bench = random.Random(4), None

    class Threaded(FakeGrammars):
        def compile(self, grammar):
            return pool.submit(self.made, grammar.text)

        def made(self, text):
            if "refuse" in text:
                raise GrammarRefused("a bad grammar")
            return Words(text)

    with ThreadPoolExecutor(2) as pool:
        bench, woken, gone = Bench(Threaded(), slots=6), threading.Semaphore(0), set()
        bench.batcher.wake = woken.release
        for number in range(400):
            kind = rng.choice(["cat dog door", "a", "refuse", "hello", None, None])
            prompt = "\x01S" + "a" * 12 if rng.random() < 0.02 else "abc"[: rng.randrange(1, 4)]
            bench.submit(number, prompt, rng.randrange(0, 9), words=kind)
            if rng.random() < 0.1:
                given_up = {rng.randrange(number + 1)}
                bench.batcher.cancel(given_up)
                gone |= given_up
            if bench.batcher.ready(0):
                bench.tick()
        while bench.batcher.waiting:
            if not bench.batcher.ready(0):
                assert woken.acquire(timeout=60)
            else:
                bench.tick()
    answered = bench.ends.keys() | bench.refused.keys() | bench.errors.keys()
    assert set(range(400)) - answered <= gone
    assert not bench.batcher._arrivals._compiling
    assert bench.batcher.busy == 0


def test_a_worker_s_loop_is_woken_by_a_compiled_grammar(weights):
    """Nothing else is said to it meanwhile."""
    fakes.write(weights, "text", "digest")
    ours, theirs = socket.socketpair()
    with ours:
        peer = Peer(ours)
        worker = WorkerThread(theirs)
        peer.send(
            {"type": "configure", "config": dataclasses.asdict(WorkerConfig(str(weights), device="cpu", max_slots=2))}
        )
        assert peer.receive().type == "ready"
        job = SequenceJob("text", (65,), 20, 1, GREEDY, (EOS,), grammar=Grammar("regex", "(yes|no)"))
        peer.send(fakes.frame_of(1, job))
        said, finish = [], None
        while finish is None:
            ((number, tokens, _, finish, error, *refused),) = peer.receive().header["chunks"]
            assert (number, error, refused) == (1, None, [None, False])
            said += tokens
        assert fakes_text(said) in {"yes", "no"}
    assert worker.wait(60) == 0
