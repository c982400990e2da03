"""Video: frames in time. Reading, writing and showing clips, pixels as latents, data sets and measures of motion."""

from flowgen.plugins import Component, hookimpl


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("modality", "video", "flowgen_video.modality:Video", "clips of frames (mp4, webm, gif)"),
        Component("encoder", "pixels", "flowgen_video.encoders:Pixels", "pixels as they are, scaled to [-1, 1]"),
        Component(
            "encoder",
            "image-autoencoder",
            "flowgen_video.autoencoders:ImageAutoencoder",
            "latents of a pretrained autoencoder of pictures, frame by frame",
        ),
        Component(
            "encoder",
            "video-autoencoder",
            "flowgen_video.autoencoders:VideoAutoencoder",
            "latents of a pretrained causal autoencoder of space and time",
        ),
        Component(
            "network",
            "video-causal",
            "flowgen_video.causal:CausalVideo",
            "an autoencoder of frames, causal in time, to be trained here",
        ),
        Component(
            "loss",
            "video-reconstruction",
            "flowgen_video.reconstruction:VideoReconstruction",
            "distances between frames and what an autoencoder gives back",
        ),
        Component(
            "dataset",
            "moving-digits",
            "flowgen_video.moving_digits:MovingDigits",
            "real handwritten digits that move and bounce (built in)",
        ),
        Component("dataset", "video-folder", "flowgen_video.folders:VideoFolder", "the video files of a folder"),
        Component(
            "dataset", "video-manifest", "flowgen_video.manifests:VideoManifest", "video files listed in a table"
        ),
        Component("dataset", "video-shards", "flowgen_video.shards:VideoShards", "videos in tar files (webdataset)"),
        Component(
            "dataset",
            "video-hf",
            "flowgen_video.hub:VideoHub",
            "videos in a folder of the datasets library (extra: datasets)",
        ),
        Component(
            "metric",
            "digit-agreement",
            "flowgen_video.digits:DigitAgreement",
            "does a reader of real digits read the digit that was asked, from the first frame to the last?",
        ),
        Component(
            "metric", "label-agreement", "flowgen_video.metrics:LabelAgreement", "is the asked class seen in it?"
        ),
        Component(
            "metric",
            "video-distribution",
            "flowgen_video.metrics:VideoDistribution",
            "distance to the distribution of real clips, precision and recall, diversity within a condition",
        ),
        Component(
            "metric", "frechet-video", "flowgen_video.metrics:FrechetDistance", "distance to real clips as a whole"
        ),
        Component("metric", "motion-magnitude", "flowgen_video.metrics:MotionMagnitude", "how much moves"),
        Component(
            "metric",
            "nearest-training",
            "flowgen_video.metrics:NearestTraining",
            "distance to the nearest training clip",
        ),
        Component("metric", "motion", "flowgen_video.digits:Motion", "does it move the way that was asked?"),
    ]
