"""The game: a few tics of one action, pictures and sound, as a function of a seed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from flowgen.core.random import seed_of
from flowgen.errors import FlowgenError

TICS = 35
"""Tics a second: pictures, and what the player does."""
RATE = 22050
"""Samples of sound a second; 630 a tic."""
ATTEMPTS = 50

Scenario = Literal["basic", "defend_the_center", "health_gathering", "deadly_corridor"]


@dataclass(frozen=True)
class Played:
    """Pictures uint8 [T, 120, 160, 3] and sound int16 [630 T, 2] of the same T tics."""

    pictures: np.ndarray
    sound: np.ndarray


def actions(scenario: Scenario) -> tuple[str, ...]:
    """What a player can do: the scenario's buttons, and nothing."""
    buttons = _game(scenario, os.getpid()).get_available_buttons()
    return (*(button.name.lower().replace("_", " ") for button in buttons), "nothing")


def play(scenario: Scenario, action: str, tics: int, seed: int) -> Played:
    """Begin an episode, do this and that for a second at most, then one action for `tics` tics.

    Where the episode ends within them (the player dies, or wins), another one is begun, so that the result remains a
    function of the arguments. FlowgenError: none of 50 lasts that long.
    """
    game = _game(scenario, os.getpid())
    names = actions(scenario)
    held = [float(name == action) for name in names[:-1]]
    for attempt in range(ATTEMPTS):
        start = seed_of("doom", seed, attempt)
        rng = np.random.default_rng(start)
        game.set_seed(start % (1 << 31))
        game.new_episode()
        for _ in range(int(rng.integers(2, TICS))):
            if not game.is_episode_finished():
                game.make_action([float(v) for v in rng.integers(0, 2, len(held))])
        pictures, sound = [], []
        while len(pictures) < tics and not game.is_episode_finished():
            state = game.get_state()
            pictures.append(state.screen_buffer.copy())
            sound.append(state.audio_buffer.copy())
            game.make_action(held)
        if len(pictures) == tics:
            return Played(np.stack(pictures), np.concatenate(sound))
    raise FlowgenError(
        f"no episode of {scenario} in {ATTEMPTS} lasts {tics} tics ({tics / TICS:.1f} s) of {action!r}; ask for shorter clips"
    )


@cache
def _game(scenario: Scenario, process: int) -> Any:
    """A running game; each process has its own, since one cannot be shared after a fork."""
    import vizdoom

    game = vizdoom.DoomGame()
    game.load_config(os.path.join(vizdoom.scenarios_path, f"{scenario}.cfg"))
    # the game keeps its settings in a file, by default in the folder one happens to be in; there are none to keep
    game.set_doom_config_path(os.devnull)
    game.set_window_visible(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_episode_timeout(0)
    game.set_audio_buffer_enabled(True)
    game.set_audio_sampling_rate(vizdoom.SamplingRate.SR_22050)
    game.set_audio_buffer_size(1)
    game.add_game_args("+snd_efx 0")  # without it the sound of some systems aborts the game
    try:
        game.init()
    except vizdoom.ViZDoomErrorException as error:
        raise FlowgenError(f"the game does not start: {error}") from None
    return game
