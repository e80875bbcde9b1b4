"""Answer the texts of many callers in batches: those that wait when a batch is done are the next one."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Overloaded(RuntimeError):
    """More texts wait than may."""


class TooLarge(ValueError):
    """A request has more texts than may ever wait."""


class Batches(Generic[Answer]):
    """Answers texts on a thread of its own, without waiting for a batch to be full.

    Args:
        answer: Returns an answer for each of some texts.
        most: The largest number of texts in a batch.
        waiting: How many texts may wait at once, and how many a request may have.
    """

    def __init__(self, answer: Callable[[list[str]], Sequence[Answer]], most: int, waiting: int) -> None:
        self._answer, self._most, self._limit = answer, most, waiting
        self._queue: SimpleQueue[tuple[str, Future[Answer]] | None] = SimpleQueue()
        self._lock, self._closed = Lock(), False
        self._thread = Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[str]) -> list[Future[Answer]]:
        """Return a future for the answer to each text; one that is canceled in time is never computed.

        Raises:
            TooLarge: These are more texts than may wait at all.
            Overloaded: Too many texts wait already, or the thread was ended.
        """
        if len(texts) > self._limit:
            raise TooLarge(
                f"{len(texts)} texts are more than the {self._limit} of the largest request; send fewer"
            )
        futures: list[Future[Answer]] = [Future() for _ in texts]
        with self._lock:
            if self._closed:
                raise Overloaded("the server is about to end; try again later")
            if self.waiting() + len(texts) > self._limit:
                raise Overloaded(f"{self.waiting()} of at most {self._limit} texts wait; try again later")
            for pair in zip(texts, futures, strict=True):
                self._queue.put(pair)
        return futures

    def waiting(self) -> int:
        """Return how many texts wait; those of the batch that is computed do not count."""
        return self._queue.qsize()

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            # This thread alone takes texts away.
            while len(batch) < self._most and not self._queue.empty():
                if (following := self._queue.get()) is None:
                    self._queue.put(None)
                    break
                batch.append(following)
            self._fulfil([pair for pair in batch if pair[1].set_running_or_notify_cancel()])

    def _fulfil(self, batch: Sequence[tuple[str, Future[Answer]]]) -> None:
        """Set the answers; texts of a batch that fails are answered one by one, so that one fails alone."""
        try:
            answers = self._answer([text for text, _ in batch]) if batch else ()
            for (_, future), answer in list(zip(batch, answers, strict=True)):
                future.set_result(answer)
        # A model may raise any error, and the thread must outlive it.
        except Exception as error:  # noqa: BLE001
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for pair in batch:
                self._fulfil([pair])
