"""OpenAI's own client speaks with the server: speech, videos, models, and errors it can read."""

import io

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from flowgen_video.modality import Video
from PIL import Image

from flowgen.cli import cli
from tests.serving.test_server import STEP, TOKEN, server

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def client(untrained_runs):
    with server(untrained_runs, "--jobs", str(untrained_runs / "openai-jobs")) as (url, _):
        yield openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0)


def test_speech_is_the_clip_of_the_command_line(client, untrained_runs, tmp_path):
    asked = {"model": "notes", "voice": "default", "input": "C4", "response_format": "wav"}
    made = client.audio.speech.create(**asked, extra_body={"seed": 3, "conditions": {"timbre": "flute"}})
    sound = soundfile.read(io.BytesIO(made.read()))[0]
    own = ["sample", str(untrained_runs / "runs" / "notes"), "--seed", "3", "-c", "pitch=C4", "-c", "timbre=flute"]
    assert CliRunner().invoke(cli, [*own, "-o", str(tmp_path / "a.wav")], catch_exceptions=False).exit_code == 0
    assert np.abs(sound - soundfile.read(tmp_path / "a.wav")[0]).max() <= STEP
    mp3 = client.audio.speech.create(model="notes", voice="default", input="")
    assert mp3.response.headers["content-type"] == "audio/mpeg"
    assert mp3.read()[:3] in (b"ID3", b"\xff\xfb\x00")


def test_a_video_is_made_listed_fetched_and_deleted(client, tmp_path):
    made = client.videos.create_and_poll(model="moving-digits", prompt="3", poll_interval_ms=200)
    assert (made.status, made.progress, made.error) == ("completed", 100, None)
    assert made.id in [video.id for video in client.videos.list().data]
    client.videos.download_content(made.id).write_to_file(tmp_path / "a.mp4")
    clip = Video(fps=8, frames=8, height=16, width=16, channels=1).read(tmp_path / "a.mp4")
    assert tuple(clip.data.shape) == (8, 16, 16, 1)
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match="no such video"):
        client.videos.retrieve(made.id)


def test_a_video_begins_with_a_picture(client, tmp_path):
    Image.new("L", (16, 16), 128).save(tmp_path / "first.png")
    made = client.videos.create_and_poll(
        model="moving-digits", prompt="", input_reference=(tmp_path / "first.png").open("rb"), poll_interval_ms=200
    )
    assert made.status == "completed"


def test_the_runs_are_its_models(client):
    assert {model.id for model in client.models.list().data} == {"notes", "waves", "moving-digits"}


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"model": "other", "input": "C4"}, "other"),
        ({"input": "H9"}, "conditions: pitch, timbre"),
        ({"voice": "alloy", "input": "C4"}, "voice"),
        ({"input": "C4", "speed": 2.0}, "speed"),
        ({"input": "C4", "response_format": "aac"}, "format"),
        ({"input": "C4", "instructions": "softly"}, "instructions"),
    ],
)
def test_what_cannot_be_made_is_said_in_the_shape_that_the_client_reads(client, asked, word):
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        client.audio.speech.create(**{"model": "notes", "voice": "default", **asked})
    assert word in refused.value.message
    assert "\n" not in refused.value.message


def test_sizes_and_lengths_are_those_of_the_run(client):
    for wrong, word in (({"size": "1280x720"}, "16x16"), ({"seconds": "long"}, "seconds"), ({"seed": "x"}, "JSON")):
        with pytest.raises(openai.BadRequestError, match=word):
            client.videos.create(model="moving-digits", prompt="3", extra_body=wrong)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=client.base_url, api_key="wrong", max_retries=0).models.list()
