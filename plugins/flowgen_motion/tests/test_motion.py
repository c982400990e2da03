"""Bodies are bodies, windows are windows, and the metrics see the difference."""

import numpy as np
import pytest
import torch
from flowgen_motion.metrics import Action, Bodies, bone_lengths, stack
from flowgen_motion.mocap import Mocap, recordings
from flowgen_motion.modality import Motion
from flowgen_motion.skeleton import BONES, JOINTS, MIRROR, NAMES, positions
from PIL import Image

from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip

MOTION = Motion()
DATA = Mocap(MOTION)
CLIPS = [DATA.clip(i, 0) for i in range(28)]


def test_limbs_keep_the_length_of_the_skeleton():
    expected = [np.linalg.norm(JOINTS[NAMES[child]][1]) for _, child in BONES]
    for _, joints in recordings(25.0).values():
        lengths = np.stack([np.linalg.norm(joints[:, c] - joints[:, p], axis=1) for p, c in BONES], 1)
        assert np.abs(lengths / expected - 1).max() < 1e-6


def test_a_straight_pose_stands_on_its_feet():
    frame = np.zeros((2, 44))  # of which only the first shows: nothing changes
    frame[:, 0] = 0.01
    frame[:, 2] = 0.9
    at = 4
    for _, _, numbers in JOINTS.values():
        if numbers == 4:
            frame[:, at] = 1.0
        at += numbers
    assert at == 44
    joints = positions(frame, 25.0)[0]
    assert joints[NAMES.index("right_ankle")] == pytest.approx([0, 0.9 - 0.421546 - 0.40987, 0.084887])
    frame[:, 4 + 4 * 4] = -np.pi / 2  # the right knee
    bent = positions(frame, 25.0)[0]
    assert bent[NAMES.index("right_ankle")] == pytest.approx([-0.40987, 0.9 - 0.421546, 0.084887])


def test_people_stay_between_floor_and_ceiling():
    height = stack(CLIPS)[..., 1]
    assert float(height.min()) > -0.15
    assert float(height.max()) < 2.2


def test_a_clip_begins_at_the_origin_and_faces_along_x():
    for clip in CLIPS:
        root, right, left = clip.data[0, 0], clip.data[0, 3], clip.data[0, 9]
        assert root[[0, 2]].abs().max() < 1e-6
        across = right - left
        assert across[2] > 0
        assert abs(float(across[0])) < 1e-5


def test_who_walks_moves_ahead():
    clips = [DATA.clip(i, 0) for i in range(200) if DATA.clip(i, 0).conditions["action"] in ("walk", "run")]
    assert all(float(clip.data[-1, 0, 0]) > 0.5 for clip in clips)


def test_the_held_out_part_is_the_mirror_image():
    joints = DATA.used[0][1][: MOTION.frames]
    twice = (joints[:, MIRROR] * [1, 1, -1])[:, MIRROR] * [1, 1, -1]
    assert np.allclose(twice, joints)
    held_out = DATA.validation().clip(0, 0)
    assert torch.allclose(bone_lengths(held_out.data), bone_lengths(CLIPS[0].data)[:1], atol=1e-4)


def test_a_gif_shows_the_motion_and_holds_its_numbers(tmp_path):
    path = tmp_path / "walk.gif"
    MOTION.write(CLIPS[:1], path, {"seed": 3})
    picture = Image.open(path)
    assert picture.n_frames == MOTION.frames
    assert picture.info["duration"] == round(1000 / MOTION.fps)
    assert torch.equal(MOTION.read(path).data, CLIPS[0].data)


def test_a_gif_of_something_else_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.gif")
    with pytest.raises(FlowgenError, match=r"x.gif holds no joints"):
        MOTION.read(tmp_path / "x.gif")


def test_options_that_cannot_be_are_named():
    with pytest.raises(UsageError, match=r"no recording has modality.frames=500 frames"):
        Mocap(Motion(frames=500))
    with pytest.raises(UsageError, match="expected frames >= 2 and fps > 0"):
        Motion(fps=0)


def test_the_metrics_tell_bodies_from_noise():
    metric = Bodies(MOTION, DATA)
    real = metric.measure(CLIPS, [])
    noise = [Clip(c.data + 0.05 * torch.randn(c.data.shape, generator=torch.manual_seed(0)), c.rate) for c in CLIPS]
    broken = metric.measure(noise, [])
    assert real["bone length error, %"] < 0.01
    assert broken["bone length error, %"] > 10
    assert broken["jerk, m/s^3"] > 3 * real["jerk, m/s^3"]


def test_the_metrics_tell_one_action_from_another():
    metric = Action(MOTION, DATA)
    (right,) = metric.measure(CLIPS, []).values()
    names = [c.conditions["action"] for c in CLIPS]
    swapped = [Clip(c.data, c.rate, {"action": n}) for c, n in zip(CLIPS, [*names[1:], names[0]], strict=True)]
    (wrong,) = metric.measure(swapped, []).values()
    assert right > 0.9
    assert wrong < 0.3
