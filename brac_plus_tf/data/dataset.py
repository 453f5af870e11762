"""Offline datasets: transitions that know their episodes, sampled inside the compiled training loop."""

import dataclasses
import functools
import hashlib
import os

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.data.episodes import Places, RecordedEpisodes
from brac_plus_tf.data.scaling import Scaling


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where data come from.

    names: of the files or sources, in order, and rows: how many each of them holds. sha256: of their contents, one
    after the other. part: which of the transitions, where not all. discount: that the data state, if they do.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    sha256: str
    part: str = ""
    discount: float | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OfflineDataset:
    """Transitions ready for training, and what is known about where they come from.

    transitions: Transition of float32 arrays, M rows, in network units (see Scaling). places: each one's place in its
    episode. episodes: all P episodes in order, as they were recorded.
    """

    transitions: Transition
    places: Places
    episodes: RecordedEpisodes
    scaling: Scaling
    origin: Origin

    def __repr__(self) -> str:
        returns = self.episodes.returns
        mean = f", mean return {returns.mean():,.1f}" if len(returns) else ""
        observation, action = self.dimensions
        return (
            f"OfflineDataset({', '.join(self.origin.names)}{f' ({self.origin.part})' * bool(self.origin.part)}: "
            f"{self.number_of_transitions:,} transitions, {observation} observation and {action} action entries, "
            f"{len(returns):,} episodes{mean})"
        )

    @property
    def dimensions(self) -> Dimensions:
        """Entries of one observation and of one action."""
        return Dimensions(self.transitions.observation.shape[1], self.transitions.action.shape[1])

    @property
    def number_of_transitions(self) -> int:
        """M, the number of transitions that `sample` draws from."""
        return len(self.transitions.reward)

    def facts(self) -> dict[str, object]:
        """What identifies the data in a run's record, JSON-ready; files without their folders."""
        names = [os.path.basename(name) if os.path.isfile(name) else name for name in self.origin.names]
        part = {"part": self.origin.part} if self.origin.part else {}
        return {
            "files": names,
            "sha256": self.origin.sha256,
            "rows": list(self.origin.rows),
            "transitions": self.number_of_transitions,
            **part,
        }

    @functools.cached_property
    def transitions_sha256(self) -> str:
        """SHA-256 of the transitions themselves: equal exactly where training sees the same data."""
        digest = hashlib.sha256()
        for array in self.transitions:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    # Drawing ---------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def tensors(self) -> Transition:
        """The transitions as tensors, made at first use and held once; compiled functions capture them."""
        # tf.constant would keep a second copy of every array alive (TensorFlow 2.21); a variable's value does not.
        with tf.init_scope():
            return Transition(*(tf.Variable(array, trainable=False).read_value() for array in self.transitions))

    def sample(self, shape: tuple[int, ...], seed: tf.Tensor) -> Transition:
        """Draws transitions uniformly with replacement; eager and compiled calls draw the same.

        Args:
          shape: leading axes of the batch, e.g. (B,) or (E, B). seed: [2] int32; equal seeds give equal batches.
        Returns:
          Transition of float32 tensors [*shape, ..].
        """
        count = self.number_of_transitions
        return self.rows(tf.random.stateless_uniform(shape, seed, 0, count, tf.int32, alg="philox"))

    def sample_segments(self, count: int, length: int, seed: tf.Tensor) -> Transition:
        """Draws stretches of consecutive steps of one episode, uniformly with replacement over all that there are.

        They may overlap, and an episode of T steps has T - length + 1 of them.

        Args:
          count, length: of the stretches. seed: [2] int32; equal seeds give equal batches, eager and compiled.
        Returns:
          Transition of float32 tensors [count, length, ..].
        Raises:
          UserError: if no episode is that long.
        """
        starts = self._segment_starts(length)
        drawn = tf.random.stateless_uniform([count], seed, 0, len(starts), tf.int32, alg="philox")
        return self.rows(tf.gather(starts, drawn)[:, None] + tf.range(length))

    def rows(self, index: tf.Tensor) -> Transition:
        """The transitions of these numbers, int32 of any shape [*shape]: Transition of float32 tensors [*shape, ..]."""
        return Transition(*(tf.gather(tensor, index) for tensor in self.tensors))

    @functools.cached_property
    def _starts(self) -> dict[int, tf.Tensor]:
        return {}

    def _segment_starts(self, length: int) -> tf.Tensor:
        """Rows that begin a stretch of that length, [S] int32; found once for each length."""
        if length not in self._starts:
            starts = segment_starts(self.places, length)
            if len(starts) == 0:
                longest = longest_stretch(self.places)
                raise UserError(f"no episode has {length} consecutive transitions, the longest has {longest}")
            with tf.init_scope():  # not inside of what is being traced: the next trace wants it, too
                self._starts[length] = tf.constant(starts, tf.int32)
        return self._starts[length]

    # Parts -----------------------------------------------------------------------------------------------------------

    def split_rows(self, share: float, seed: int) -> tuple["OfflineDataset", "OfflineDataset"]:
        """Two parts, the second of that share of the transitions, drawn one by one; the rest is the first.

        Neighbouring states are alike, so that what is held out is near to what is trained on; see `split_episodes`.

        Raises:
          UserError: if a part would be empty.
        """
        held_out = _choose(self.number_of_transitions, share, seed, "transitions")
        return self._parts(held_out, "transitions", share, seed)

    def split_episodes(self, share: float, seed: int) -> tuple["OfflineDataset", "OfflineDataset"]:
        """Two parts, the second of that share of the episodes, which are drawn as wholes; the rest is the first.

        Raises:
          UserError: if a part would be empty.
        """
        numbers, episode = np.unique(self.places.episode, return_inverse=True)  # those that have transitions
        return self._parts(_choose(len(numbers), share, seed, "episodes")[episode], "episodes", share, seed)

    def _parts(
        self, held_out: np.ndarray, what: str, share: float, seed: int
    ) -> tuple["OfflineDataset", "OfflineDataset"]:
        drawn = f"{share:g} of the {what}, seed {seed}"
        return self._part(~held_out, f"all but {drawn}"), self._part(held_out, drawn)

    def _part(self, kept: np.ndarray, part: str) -> "OfflineDataset":
        """The transitions where kept [M] is True, and the episodes that they are from, numbered anew."""
        numbers, episode = np.unique(self.places.episode[kept], return_inverse=True)
        part = f"{self.origin.part}; {part}" if self.origin.part else part
        return OfflineDataset(
            Transition(*(array[kept] for array in self.transitions)),
            Places(episode.astype(np.int32), self.places.step[kept], self.places.known[kept]),
            RecordedEpisodes(*(column[numbers] for column in self.episodes)),
            self.scaling,
            dataclasses.replace(self.origin, part=part),
        )


def segment_starts(places: Places, length: int) -> np.ndarray:
    """Rows from which `length` rows are consecutive steps of one episode.

    Raises:
      ValueError: for a length below 1.
    """
    if length < 1:
        raise ValueError(f"segments of {length} steps")
    first, last = slice(max(0, len(places.step) - length + 1)), slice(length - 1, None)
    # both columns grow with the row, so the ends tell what lies between them
    same = places.episode[first] == places.episode[last]
    return np.flatnonzero(same & (places.step[last] - places.step[first] == length - 1))


def ends_episode(places: Places) -> np.ndarray:
    """[M] bool: whether the row is its episode's last that there is."""
    return np.append(np.diff(places.episode) != 0, True)


def continues(places: Places) -> np.ndarray:
    """[M] bool: whether the row is the step after that of the row before."""
    continues = (np.diff(places.episode) == 0) & (np.diff(places.step) == 1)
    return np.append(False, continues)


def longest_stretch(places: Places) -> int:
    """Transitions of the longest unbroken one."""
    return int(np.bincount(np.cumsum(~continues(places))).max())


def _choose(count: int, share: float, seed: int, what: str) -> np.ndarray:
    """[count] bool, True at round(share count) places drawn without replacement."""
    chosen = round(share * count) if 0.0 < share < 1.0 else 0
    if not 0 < chosen < count:
        raise UserError(f"a share of {share:g} of {count} {what} leaves a part empty; give one between 0 and 1")
    order = np.random.default_rng(initializer_seed(seed, f"split of {what}")).permutation(count)
    held_out = np.zeros(count, bool)
    held_out[order[:chosen]] = True
    return held_out
