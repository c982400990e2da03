"""Audio: reading and writing sound files, data sets, encoders and metrics. Nothing heavy is imported here."""

from flowgen.plugins import Component, hookimpl

_STILL_READ = {"validation_share": "held_out"}
RENAMED = {**_STILL_READ, "conditions": "columns"}
"""Options of data sets by the names that they had in 0.1."""


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("modality", "audio", "flowgen_audio.modality:Audio", "sound: wav, flac, mp3, ogg"),
        Component("dataset", "notes", "flowgen_audio.notes:Notes", "built-in instrument notes by pitch and timbre"),
        Component(
            "dataset",
            "audio-folder",
            "flowgen_audio.folder:AudioFolder",
            "a folder of recordings",
            RENAMED,
            _STILL_READ,
        ),
        Component(
            "dataset",
            "audio-manifest",
            "flowgen_audio.manifest:AudioManifest",
            "recordings listed in a table",
            RENAMED,
            _STILL_READ,
        ),
        Component(
            "dataset",
            "audio-shards",
            "flowgen_audio.shards:AudioShards",
            "recordings in tar files (webdataset)",
            RENAMED,
            _STILL_READ,
        ),
        Component(
            "dataset",
            "audio-hf",
            "flowgen_audio.hub:AudioHub",
            "recordings in a folder of the datasets library (extra: datasets)",
        ),
        Component("encoder", "spectrogram", "flowgen_audio.encoders:Spectrogram", "log magnitudes and Griffin-Lim"),
        Component("encoder", "mel", "flowgen_audio.encoders:Mel", "log-mel magnitudes and Griffin-Lim"),
        Component("encoder", "stft", "flowgen_audio.encoders:ComplexSTFT", "the invertible complex STFT, compressed"),
        Component("encoder", "waveform", "flowgen_audio.encoders:Waveform", "patches of samples"),
        Component(
            "encoder", "mel-vocos", "flowgen_audio.neural:MelVocos", "log-mel bands, decoded by a neural vocoder"
        ),
        Component(
            "encoder",
            "audio-autoencoder",
            "flowgen_audio.neural:WaveformAutoencoder",
            "latents of a pretrained autoencoder of waveforms",
        ),
        Component(
            "network",
            "audio-spectral",
            "flowgen_audio.autoencoder:SpectralAutoencoder",
            "an autoencoder of waveforms between an STFT and its inverse",
        ),
        Component(
            "network",
            "audio-snake",
            "flowgen_audio.autoencoder:SnakeAutoencoder",
            "an autoencoder of waveforms by convolutions alone",
        ),
        Component(
            "loss",
            "audio-reconstruction",
            "flowgen_audio.reconstruction:AudioReconstruction",
            "of autoencoders of waveforms: samples, spectra, mel bands",
        ),
        Component(
            "conditioner", "audio-reference", "flowgen_audio.reference:ReferenceCondition", "sound like this recording"
        ),
        Component(
            "metric", "note-accuracy", "flowgen_audio.metrics:NoteAccuracy", "pitch and timbre of notes, measured"
        ),
        Component(
            "metric", "classifier-agreement", "flowgen_audio.likeness:ClassifierAgreement", "is the asked class heard?"
        ),
        Component(
            "metric",
            "audio-distribution",
            "flowgen_audio.distribution:AudioDistribution",
            "distance to the distribution of real clips, precision and recall, diversity within a condition",
        ),
        Component("metric", "frechet-audio", "flowgen_audio.likeness:FrechetAudio", "distance to real recordings"),
        Component(
            "metric",
            "nearest-recording",
            "flowgen_audio.likeness:NearestRecording",
            "distance to the nearest training clip",
        ),
        Component("metric", "diversity", "flowgen_audio.likeness:Diversity", "as different from each other as real?"),
        Component(
            "metric",
            "spectral-convergence",
            "flowgen_audio.metrics:SpectralConvergence",
            "what the encoder itself loses",
        ),
        Component("metric", "words", "flowgen_audio.speech:Words", "are the asked words heard? (extra: speech)"),
    ]
