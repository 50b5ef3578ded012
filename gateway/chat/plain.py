"""One question, one answer: the answer alone on standard output, everything else on standard error."""

from __future__ import annotations

import io
import os
import sys
from typing import Final

from gateway.chat.client import GatewayClient
from gateway.chat.console import Console
from gateway.chat.events import ChatFailure
from gateway.chat.reply import Reply
from gateway.chat.session import Session
from gateway.chat.texts import Texts
from gateway.chat.wording import failure_lines, receipt_line

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1


async def answer_once(
    client: GatewayClient, session: Session, prompt: str, texts: Texts, *, quiet: bool
) -> int:
    """The exit code. A reader of standard output that leaves early ends it without a word."""
    out, errors = Console(sys.stdout, os.environ), Console(sys.stderr, os.environ)
    news = Console(io.StringIO(), {}) if quiet else errors
    reply = Reply(texts, session.model or texts.default_model, out, news)
    try:
        answer = await reply.receive(client.generate(session.body(prompt)))
    except ChatFailure as failure:
        for line in failure_lines(texts, failure, begun=bool(reply.text)):
            errors.complain(line)
        return EXIT_FAILED
    except BrokenPipeError:
        # Python flushes standard output once more when it ends: into nothing, then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        errors.complain(texts.out_unwritable.format(reason=error.strerror))
        return EXIT_FAILED
    news.dim(receipt_line(texts, answer))
    return EXIT_OK
