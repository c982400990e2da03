"""What flowgen itself brings, registered as a stranger's plugin would be."""

from __future__ import annotations

from flowgen.plugins.component import Component
from flowgen.plugins.hookspecs import hookimpl


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("path", "linear", "flowgen.core.paths:Linear", "alpha = t, sigma = 1 - t (rectified flow)"),
        Component("path", "cond-ot", "flowgen.core.paths:CondOT", "linear, with a noise floor sigma_min"),
        Component("path", "cosine", "flowgen.core.paths:Cosine", "on the circle: unit variance throughout"),
        Component("path", "vp", "flowgen.core.paths:VP", "variance preserving (DDPM)"),
        Component(
            "path", "betas", "flowgen.core.betas:Betas", "variance preserving, by the betas of a diffusion model"
        ),
        Component("path", "ve", "flowgen.core.paths:VE", "variance exploding (score matching)"),
        Component("path", "affine", "flowgen.core.paths:affine_path", "from two functions of your own"),
        Component("times", "uniform", "flowgen.core.times:Uniform", "every time equally often"),
        Component("times", "logit-normal", "flowgen.core.times:LogitNormal", "mostly the middle of the path"),
        Component("times", "mode", "flowgen.core.times:Mode", "more of the middle, at any rate some of both ends"),
        Component(
            "coupling", "independent", "flowgen.core.couplings:Independent", "noise and data drawn independently"
        ),
        Component(
            "coupling", "optimal-transport", "flowgen.core.couplings:OptimalTransport", "exact, within the minibatch"
        ),
        Component("coupling", "sinkhorn", "flowgen.core.couplings:Sinkhorn", "entropic, for large batches (extra: ot)"),
        Component("coupling", "given-pairs", "flowgen.core.couplings:GivenPairs", "the partner of each clip is given"),
        Component(
            "coupling",
            "transport",
            "flowgen.core.transports:Transport",
            "optimal transport between two sets of clips (not exact: extra ot)",
        ),
        Component(
            "coupling",
            "schroedinger-bridge",
            "flowgen.core.transports:SchroedingerBridge",
            "Brownian motion between two sets of clips (extra: ot)",
        ),
        Component(
            "loss",
            "flow-matching",
            "flowgen.core.losses:FlowMatching",
            "regression on velocity, data, noise, score or v",
        ),
        Component(
            "loss", "rectified-flow", "flowgen.core.losses:rectified_flow", "linear, velocity, logit-normal times"
        ),
        Component("loss", "ddpm", "flowgen.core.losses:ddpm", "VP, noise prediction"),
        Component("loss", "score-matching", "flowgen.core.losses:score_matching", "VE, score prediction"),
        Component("loss", "edm", "flowgen.core.losses:EDM", "a preconditioned network, on any path"),
        Component(
            "loss", "uncertainty", "flowgen.core.losses:Uncertainty", "flow matching with a learned weight of times"
        ),
        Component(
            "loss", "flow-map", "flowgen.core.losses:FlowMapMatching", "average velocities, for one evaluation or a few"
        ),
        Component("loss", "consistency", "flowgen.core.losses:Consistency", "jumps to the data, from every time"),
        Component(
            "loss", "distill", "flowgen.core.losses:Distillation", "the flow map of a trained run, guidance folded in"
        ),
        Component(
            "loss",
            "distill-trajectories",
            "flowgen.core.losses:TrajectoryDistillation",
            "jumps along the trajectories of a trained run",
        ),
        Component(
            "loss",
            "flow-dpo",
            "flowgen.core.losses:FlowDPO",
            "preferences between two clips, near the run it starts from",
        ),
        Component("loss", "likelihood", "flowgen.core.losses:Likelihood", "maximum likelihood through the ODE"),
        Component("bottleneck", "plain", "flowgen.core.bottlenecks:Plain", "features as they are, with noise"),
        Component("bottleneck", "kl", "flowgen.core.bottlenecks:KL", "a posterior held near the standard normal"),
        Component(
            "bottleneck", "soft-norm", "flowgen.core.bottlenecks:SoftNorm", "unit variance by channel, and noise"
        ),
        Component("bottleneck", "fsq", "flowgen.core.bottlenecks:FSQ", "a few values a number: integer codes"),
        Component("optimizer", "adamw", "flowgen.training.optimizers:adamw", "Adam with decoupled weight decay"),
        Component(
            "optimizer",
            "muon",
            "flowgen.training.optimizers:Muon",
            "orthogonal updates of matrices, AdamW for the rest",
        ),
        Component(
            "optimizer", "cpu-adam", "flowgen.training.optimizers:cpu_adam", "DeepSpeed's AdamW on the CPU, for offload"
        ),
        Component("solver", "euler", "flowgen.core.solvers:Euler", "first order, 1 evaluation a step"),
        Component("solver", "midpoint", "flowgen.core.solvers:Midpoint", "second order, 2 evaluations a step"),
        Component("solver", "heun", "flowgen.core.solvers:Heun", "second order, 2 evaluations a step"),
        Component(
            "solver", "ralston", "flowgen.core.solvers:Ralston", "second order, 2 evaluations a step, least error"
        ),
        Component("solver", "rk4", "flowgen.core.solvers:RK4", "fourth order, 4 evaluations a step"),
        Component(
            "solver", "runge-kutta", "flowgen.core.solvers:TableRungeKutta", "any explicit table of coefficients"
        ),
        Component("solver", "dopri5", "flowgen.core.solvers:DormandPrince", "adaptive, a step size for every sample"),
        Component(
            "solver", "adams-bashforth", "flowgen.core.solvers:AdamsBashforth", "order 2 to 4, 1 evaluation a step"
        ),
        Component(
            "solver",
            "adams-moulton",
            "flowgen.core.solvers:AdamsMoulton",
            "third order, 1 evaluation a step, most accurate",
        ),
        Component("solver", "dpm++2m", "flowgen.core.solvers:DPMSolverPP2M", "second order, 1 evaluation a step"),
        Component("solver", "dpm++3m", "flowgen.core.solvers:DPMSolverPP3M", "third order, 1 evaluation a step"),
        Component("solver", "unipc", "flowgen.core.solvers:UniPC", "predictor and corrector, 1 evaluation a step"),
        Component("solver", "ddim", "flowgen.core.solvers:DDIM", "first order, exact for a constant estimate"),
        Component(
            "solver", "table", "flowgen.core.solvers.table:saved_table", "every weight from a file (bespoke solvers)"
        ),
        Component("solver", "learned", "flowgen.runs.learned:Learned", "fitted to one run by flowgen distill-solver"),
        Component("solver", "euler-maruyama", "flowgen.core.solvers:EulerMaruyama", "SDE, first order, any churn"),
        Component("solver", "heun-sde", "flowgen.core.solvers:HeunSDE", "SDE, second order, any churn"),
        Component("solver", "edm-churn", "flowgen.core.solvers:EDMChurn", "Heun with renewed noise (EDM)"),
        Component("solver", "ancestral", "flowgen.core.solvers:Ancestral", "SDE, DDPM at eta 1"),
        Component("solver", "dpm++sde", "flowgen.core.solvers:DPMSolverPPSDE", "SDE, multistep, 1 evaluation a step"),
        Component(
            "solver", "flow-map", "flowgen.core.solvers:FlowMapSolver", "jumps of a flow map, 1 evaluation a step"
        ),
        Component("solver", "langevin", "flowgen.core.solvers:Langevin", "annealed Langevin, for score models"),
        Component(
            "solver",
            "brownian-bridge",
            "flowgen.core.solvers:BrownianBridge",
            "SDE of a bridge between two sets of clips",
        ),
        Component("guidance", "cfg", "flowgen.core.guidance:CFG", "classifier-free guidance in an interval of t"),
        Component("guidance", "multi-cfg", "flowgen.core.guidance:MultiCFG", "a scale for each condition"),
        Component(
            "guidance", "cfg-zero-star", "flowgen.core.guidance:CFGZeroStar", "with the fitted unconditional velocity"
        ),
        Component(
            "guidance", "cross-stream", "flowgen.runs.cross:cross_stream", "by the other streams, with a scale for each"
        ),
        Component("guidance", "cfg-rescale", "flowgen.core.guidance:CFGRescale", "keeps the spread of the estimate"),
        Component("guidance", "folded", "flowgen.core.guidance:Folded", "what a distilled network has learned"),
        Component("guidance", "apg", "flowgen.core.guidance:APG", "pushes across the estimate only"),
        Component(
            "guidance", "autoguidance", "flowgen.runs.autoguidance:autoguidance", "away from a weaker run of the model"
        ),
        Component("encoder", "streams", "flowgen.runs.streams:streams", "an encoder for each of several streams"),
        Component("dataset", "reflow", "flowgen.runs.pairs:Reflow", "noise, each with what a trained run makes of it"),
        Component(
            "dataset", "pairs", "flowgen.runs.pairs:Pairs", "clips of one data set that start from those of another"
        ),
        Component(
            "dataset",
            "preferences",
            "flowgen.runs.preferences:Preferences",
            "pairs of clips, of which one was preferred",
        ),
        Component(
            "encoder", "trained", "flowgen.runs.trained:TrainedEncoder", "latents of an autoencoder trained here"
        ),
        Component("network", "transformer", "flowgen.nn:Transformer", "attention over any axes, full or factorised"),
        Component(
            "network",
            "stream-transformer",
            "flowgen.nn:StreamTransformer",
            "attention among the tokens of several streams",
        ),
        Component(
            "network",
            "exchange-transformer",
            "flowgen.nn:ExchangeTransformer",
            "a transformer for each stream, with an exchange between them",
        ),
        Component(
            "network", "lora", "flowgen.runs.adapted:lora", "a trained network, frozen, with low-rank corrections"
        ),
        Component("network", "mlp", "flowgen.nn:MLP", "linear layers, for states without axes"),
        Component("conditioner", "class", "flowgen.media.conditions:ClassCondition", "one of a list of names"),
        Component("conditioner", "number", "flowgen.media.conditions:NumberCondition", "a number in a range"),
        Component("conditioner", "text", "flowgen.media.conditions:TextCondition", "a sentence, as bytes"),
        Component(
            "conditioner",
            "text-encoder",
            "flowgen.media.text:TextEncoderCondition",
            "a text, read by a pretrained model",
        ),
        Component("region", "prefix", "flowgen.media.regions:Prefix", "the beginning is known (continuation)"),
        Component("region", "suffix", "flowgen.media.regions:Suffix", "the end is known"),
        Component("region", "ends", "flowgen.media.regions:Ends", "beginning and end are known (interpolation)"),
        Component("region", "gap", "flowgen.media.regions:Gap", "all but a gap is known (inpainting)"),
        Component("region", "whole", "flowgen.media.regions:Whole", "one stream is known (the others from it)"),
        Component("region", "outside", "flowgen.media.regions:Outside", "all but a box is known (spatial inpainting)"),
        Component("logger", "jsonl", "flowgen.training.loggers:JSONL", "figures as lines of log.jsonl"),
        Component("logger", "tensorboard", "flowgen.training.loggers:TensorBoard", "figures for TensorBoard"),
        Component("logger", "wandb", "flowgen.training.loggers:WandB", "figures for Weights & Biases (extra: wandb)"),
    ]
