"""Many servers, servers that go away and come back, their tokens and their reasoning."""

from __future__ import annotations

import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiohttp")

from model_server import ANSWER, END, SEARCH, ModelServer, rendered

from toolgym import rollout
from toolgym.cli.shell import playing_bar
from toolgym.errors import BadInputError, EndpointError
from toolgym.formats import get_format
from toolgym.messages import Message, to_chats
from toolgym.policies import Reply, Request, make_policy
from toolgym.policies.completions import body_of, ids_of, reply_of, tokens_of
from toolgym.policies.endpoint import EndpointPolicy
from toolgym.policies.refusals import shown

Serve = Callable[..., ModelServer]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["message", "finish_reason", "token_ids", "logprobs", "meta_info"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr("toolgym.policies.client._FIRST_DELAY", 0.02)
    with ExitStack() as ends:

        def made(*args: Any, **options: Any) -> ModelServer:
            server = ModelServer(*args, **options)
            ends.callback(server.end)
            return server

        yield made


@pytest.fixture
def tls(serve: Serve) -> str:
    """The address of a server whose certificate nobody has signed."""
    server = serve()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).parents[1] / "helpers" / "localhost.pem")
    server.wrap(context)
    return server.url.replace("http://", "https://")


def asked(**fields: Any) -> Request:
    codec = get_format("react", "tools_multi_step")
    return Request(to_chats(codec.render([], [Message("user", "Q?")])), [], codec, **fields)


def text(policy: EndpointPolicy) -> str:
    (reply,) = policy.act([asked()])
    assert isinstance(reply, Reply), reply
    return reply.text


class TestConcurrency:
    def test_a_rollout_alone_says_how_many_run_at_once(self, serve: Serve) -> None:
        server = serve(latency=1.5)  # time for all of them to ask, also beside other work
        policy = EndpointPolicy(server.url, model="m")
        rollout("ToolQA-PopQA-v0", policy, episodes=24, concurrency=24)
        policy.close()
        assert server.most > 16

    def test_what_the_policy_is_told_holds_for_the_rollout(self, serve: Serve) -> None:
        server = serve(latency=0.1)
        policy = EndpointPolicy(server.url, model="m", concurrency=3)
        assert policy.concurrency == 3
        rollout("ToolQA-PopQA-v0", policy, episodes=8)
        policy.close()
        assert server.most == 3

    def test_by_default_sixteen_a_server(self) -> None:
        policy = EndpointPolicy(["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"], model="m")
        assert policy.concurrency == 32
        policy.close()


class TestManyServers:
    def test_an_episode_stays_with_its_server_and_all_share_the_work(self, serve: Serve) -> None:
        servers = [serve(latency=0.02) for _ in range(3)]
        policy = make_policy("endpoint:" + ",".join(f"{one.url}#m" for one in servers))
        assert len(list(rollout("ToolQA-PopQA-v0", policy, episodes=12, concurrency=6))) == 12
        assert policy.describe()["base_url"] == [one.url for one in servers]
        policy.close()
        homes = defaultdict(set)
        for number, server in enumerate(servers):
            for body in server.bodies:
                homes[body["messages"][-1 - 2 * _turns(body)]["content"]].add(number)
        assert len(homes) == 12
        assert all(len(home) == 1 for home in homes.values())
        counts = [sum(number in home for home in homes.values()) for number in range(3)]
        assert min(counts) >= 2, "an episode begins where the fewest are"

    def test_the_others_take_over_from_one_that_is_gone(self, serve: Serve) -> None:
        kept, gone = serve(), ModelServer()
        gone.end()
        policy = EndpointPolicy([gone.url, kept.url], model="m", retries=0)
        run = rollout("ToolQA-PopQA-v0", policy, episodes=6, concurrency=3)
        assert not run.failures()
        assert len(run) == 6
        assert gone.url in policy.notice
        policy.close()

    @pytest.mark.parametrize(
        ("addresses", "model", "words"),
        [
            ([], "m", "an address or a list"),
            ([5], "m", "an address or a list"),
            ("http://a/v1#x,http://b/v1#y", None, "serve one model"),
            ("http://", "m", "needs a host"),
            ("http://a:b/v1", "m", "cannot be read"),
        ],
    )
    def test_addresses_that_are_none(self, addresses: Any, model: Any, words: str) -> None:
        with pytest.raises(BadInputError, match=words):
            EndpointPolicy(addresses, model=model)

    def test_a_proxy_of_the_environment_is_used(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = serve()
        for name in ("https_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        policy = EndpointPolicy("http://far.test/v1", model="m", retries=0)
        assert text(policy) == SEARCH
        policy.close()
        assert proxy.paths == ["http://far.test/v1/chat/completions"]
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
        with pytest.raises(BadInputError, match="not 'socks5'"):
            EndpointPolicy("http://far.test/v1", model="m")
        monkeypatch.setenv("no_proxy", "far.test")
        EndpointPolicy("http://far.test/v1", model="m").close()

    def test_an_unknown_certificate_is_final(self, tls: str) -> None:
        policy = EndpointPolicy(tls, model="m", retries=5)
        (reply,) = policy.act([asked()])
        policy.close()
        assert isinstance(reply, EndpointError)
        assert reply.kind == "connection"
        assert "is its certificate known?" in str(reply)
        assert "tries" not in str(reply)

    def test_a_password_is_in_no_record(self) -> None:
        assert shown("http://me:secret@host:1/v1?key=2") == "http://host:1/v1"
        policy = EndpointPolicy("http://me:secret@127.0.0.1:9/v1", model="m", retries=0)
        (reply,) = policy.act([asked()])
        assert "secret" not in f"{policy.describe()} {reply}"
        policy.close()


def _turns(body: dict[str, Any]) -> int:
    return sum(chat["role"] == "assistant" for chat in body["messages"])


class TestOutage:
    def test_a_server_that_restarts_ends_nothing(self, serve: Serve) -> None:
        server = serve(latency=0.02)
        policy = EndpointPolicy(server.url, model="m", retries=1)
        notices: list[str] = []

        def restart() -> None:
            while len(server.bodies) < 5:
                time.sleep(0.01)
            server.end()
            time.sleep(0.8)
            notices.append(policy.notice)
            server.start()

        thread = threading.Thread(target=restart)
        thread.start()
        with pytest.warns(RuntimeWarning, match="is away: waiting for it, 600 s at most"):
            run = rollout("ToolQA-PopQA-v0", policy, episodes=12, concurrency=4, max_failures=1)
        thread.join()
        assert len(run) == 12
        assert not run.failures()
        assert f"waiting for {server.url} since" in notices[0]
        assert not policy.notice
        policy.close()

    def test_a_server_that_loads_its_model_is_waited_for(self, serve: Serve) -> None:
        server = serve()
        policy = EndpointPolicy(server.url, model="m", retries=0)
        text(policy)
        server.status = 503
        threading.Timer(0.3, setattr, (server, "status", 200)).start()
        with pytest.warns(RuntimeWarning, match="is away"):
            assert text(policy) == SEARCH
        policy.close()

    def test_patience_ends(self, serve: Serve) -> None:
        server = ModelServer()
        policy = EndpointPolicy(server.url, model="m", retries=1, patience=0.2)
        text(policy)
        server.end()
        with pytest.warns(RuntimeWarning, match="is away"):
            (reply,) = policy.act([asked()])
        assert isinstance(reply, EndpointError)
        assert reply.kind == "connection"
        assert "is it running?" in str(reply)
        policy.close()

    def test_the_progress_line_tells_of_it(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("toolgym.cli.shell.QUIET", 0.0)
        with playing_bar("rollout", lambda: "waiting for http://there since 9 s"):
            for _ in range(100):
                if "waiting for" in capsys.readouterr().err:
                    return
                time.sleep(0.1)
        pytest.fail("nothing was told")


class TestTokens:
    @pytest.mark.parametrize("kind", ["vllm", "sglang", "sglang-meta"])
    def test_episodes_are_token_exact(self, serve: Serve, kind: str) -> None:
        server = serve(kind)
        policy = EndpointPolicy(server.url, model="m", tokens=True)
        run = rollout("ToolQA-PopQA-v0", policy, episodes=3, env_args={"prompt": "bare"})
        policy.close()
        for trajectory in run:
            tokens = trajectory.tokens
            assert tokens is not None
            assert tokens.logprobs is not None
            own = [i for i, mine in zip(tokens.completion_ids, tokens.mask, strict=True) if mine]
            assert own == [*map(ord, SEARCH), END, *map(ord, SEARCH), END, *map(ord, ANSWER), END]
            values = zip(tokens.logprobs, tokens.mask, strict=True)
            assert all((value < 0) == bool(mine) for value, mine in values)
            said = to_chats(trajectory.messages)
            whole = tokens.prompt_ids + tokens.completion_ids
            assert whole == rendered(said)[: len(whole)]
        assert run.settings["policy"]["tokens"] is True

    def test_a_prompt_that_was_tokenised_otherwise_is_not_exact(self, serve: Serve) -> None:
        server = serve("vllm", encode=lambda text: [ord(text[0]), *map(ord, text)])
        policy = EndpointPolicy(server.url, model="m", tokens=True)
        (episode,) = rollout("ToolQA-PopQA-v0", policy, episodes=1)
        policy.close()
        assert episode.tokens is None
        assert len(episode.steps) == 3

    def test_a_server_without_ids_is_told_of_once(self, serve: Serve) -> None:
        policy = EndpointPolicy(serve("plain").url, model="m", tokens=True)
        with pytest.warns(RuntimeWarning, match="does not say its token ids") as told:
            run = rollout("ToolQA-PopQA-v0", policy, episodes=2, concurrency=1)
        policy.close()
        assert len(told) == 1
        assert [trajectory.tokens for trajectory in run] == [None, None]

    def test_nothing_of_it_is_sent_unasked(self, serve: Serve) -> None:
        server = serve("vllm")
        policy = EndpointPolicy(server.url, model="m")
        text(policy)
        policy.close()
        assert not {"return_token_ids", "logprobs", "return_meta_info"} & server.bodies[0].keys()

    @given(JSON)
    def test_any_shape_of_a_completion_is_read_or_refused(self, value: Any) -> None:
        for completion in (value, {"choices": value}, {"choices": [value]}):
            assert tokens_of(completion) is None
            with pytest.raises(EndpointError):
                reply_of(completion, asked())
        ids, logprobs = ids_of({"token_ids": value, "logprobs": {"token_logprobs": value}})
        assert ids is None or all(type(one) is int for one in ids)
        assert logprobs is None or len(logprobs) == len(ids or ())


THOUGHT = "The user asks.\nI search."


class TestReasoning:
    @pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
    def test_it_is_kept_and_given_back_as_it_came(self, serve: Serve, field: str) -> None:
        server = serve(message={field: f"\n{THOUGHT}\n"})
        policy = EndpointPolicy(server.url, model="m")
        (episode,) = rollout("ToolQA-PopQA-v0", policy, episodes=1)
        policy.close()
        assert episode.steps[0].action == f"<think>\n{THOUGHT}\n</think>\n\n{SEARCH}"
        assert episode.steps[0].calls
        assert episode.answer == "Rabat"
        said = [chat for chat in server.bodies[-1]["messages"] if chat["role"] == "assistant"]
        assert [(chat["content"], chat[field]) for chat in said] == [(SEARCH, THOUGHT)] * 2

    def test_a_reply_that_was_cut_while_it_thought(self) -> None:
        message = {"role": "assistant", "content": None, "reasoning": THOUGHT}
        choice = {"message": message, "finish_reason": "length"}
        reply = reply_of({"choices": [choice]}, asked())
        assert (reply.text, reply.cut) == (f"<think>\n{THOUGHT}", True)

    def test_marks_of_a_models_own_stay_where_they_are(self) -> None:
        request = asked()
        request.messages.append({"role": "assistant", "content": "<think>\na\n</think>\n\nb"})
        plain = body_of(request, "m", {}, native_tools=False)
        assert plain["messages"] == request.messages
