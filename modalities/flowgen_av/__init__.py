"""Sound with picture: clips that have both, a data set in which every event is known, and measures of synchrony."""

from flowgen.plugins import Component, hookimpl


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("modality", "av", "flowgen_av.modality:AudioVideo", "picture with sound (mp4, webm)"),
        Component(
            "dataset",
            "bouncing-sounds",
            "flowgen_av.bouncing:BouncingSounds",
            "a ball that bounces in a box and sounds at each impact (built in)",
        ),
        Component(
            "dataset", "av-folder", "flowgen_av.recordings:AVFolder", "the video files of a folder, with their sound"
        ),
        Component(
            "dataset",
            "av-manifest",
            "flowgen_av.recordings:AVManifest",
            "video files listed in a table, with their sound",
        ),
        Component(
            "metric",
            "event-synchrony",
            "flowgen_av.synchrony:EventSynchrony",
            "do visible impacts sound, sounds show, and at the same moment?",
        ),
        Component(
            "metric",
            "onset-correlation",
            "flowgen_av.alignment:OnsetCorrelation",
            "do onsets of the sound go with what lights up in the picture?",
        ),
        Component(
            "metric", "onset-test", "flowgen_av.alignment:OnsetTest", "the permutation test of onset-correlation"
        ),
        Component(
            "metric",
            "av-align",
            "flowgen_av.alignment:AVAlign",
            "do peaks of motion and onsets of sound coincide?",
        ),
        Component(
            "metric",
            "retrieval",
            "flowgen_av.retrieval:Retrieval",
            "does a judge of real pairs find the sound of a picture among others?",
        ),
        Component(
            "metric",
            "stream-distribution",
            "flowgen_av.distribution:StreamDistribution",
            "distance of one stream to the distribution of real ones",
        ),
        Component(
            "metric",
            "bounce-agreement",
            "flowgen_av.synchrony:BounceAgreement",
            "are the asked ball and material seen and heard?",
        ),
    ]
