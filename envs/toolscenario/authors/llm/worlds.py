"""Worlds by a language model: one reply a world, with what the proof finds as feedback."""

from __future__ import annotations

from toolgym._util.hashes import value_hash
from toolgym.envs.toolscenario.authors.llm import prompts
from toolgym.envs.toolscenario.authors.llm.ask_with_repair import Attempt
from toolgym.envs.toolscenario.authors.llm.author import EndpointAuthor
from toolgym.envs.toolscenario.authors.llm.replies import WorldReply, read_reply
from toolgym.envs.toolscenario.compiler.proof import prove
from toolgym.envs.toolscenario.records import Question, RejectedError
from toolgym.envs.toolscenario.world import KIND, PlanStep, World
from toolgym.scenario import ToolDocument

__all__ = ["EndpointWorldAuthor"]


class EndpointWorldAuthor(EndpointAuthor):
    """Writes worlds with a language model behind a server; arguments as of `EndpointAuthor`.

    The questions are wishes: what a world shall be about. A reply that is not a world, or whose
    proof fails, goes back to the model with what is wrong, up to ``max_retries`` times.
    """

    kind = KIND

    def settings(self) -> dict[str, object]:
        """As `EndpointAuthor.settings`, with the prompt of worlds."""
        return {**super().settings(), "kind": KIND, "world": value_hash(prompts.WORLD)}

    def world(self, question: Question) -> World:
        """A world that was proved; where no reply passes, the last that can be read is given.

        Raises:
            RejectedError: no reply could be used.
            EndpointError: the server fails.
            BadInputError: the sandbox does not work here.
        """
        readable: list[World] = []

        def use(attempt: Attempt) -> World:
            made = self._drafted(read_reply(attempt.text, WorldReply, attempt.complete), question)
            readable.append(made)
            prove(made, self._sandbox_timeout)
            return made

        try:
            return self._asker.write("world", question.id, prompts.world(question), use, readable)
        except RejectedError as error:
            raise RejectedError("deployment", error.reason, str(error)) from error

    def _drafted(self, reply: WorldReply, question: Question) -> World:
        steps = len(reply.steps)
        return World(
            id=question.id,
            question=reply.question,
            domain=reply.domain,
            level=1 if steps < 4 else 2 if steps < 7 else 3 if steps < 10 else 4,
            split=question.split,
            author=f"{self.name}:{self._model}",
            state=reply.state,
            documents=tuple(
                ToolDocument(name=t.name, description=t.description, parameters=t.parameters)
                for t in reply.tools
            ),
            functions={tool.name: tool.source for tool in reply.tools},
            goal=tuple(reply.goal),
            rules=tuple(reply.rules),
            invariants=tuple(reply.invariants),
            links=reply.links,
            plan=tuple(
                PlanStep(id=s.id, tool=s.tool, arguments=s.arguments, after=tuple(s.after))
                for s in reply.steps
            ),
        )
