"""Settings of every job: what `config` holds when its `run` is called. Imports no JAX.

The defaults of a training are the paper's at 512²; the files in `configs/` state what differs.
"""

from __future__ import annotations

import dataclasses

from p4d_jax.genhead.config import (
    PAPER_TERMS,
    RECONSTRUCTION,
    DiscriminatorConfig,
    GenHeadConfig,
    GenHeadStepConfig,
    SynthesisSettings,
)
from p4d_jax.head.strength import Strength
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.reconstructor.config import ReconstructorConfig, StepConfig
from p4d_jax.settings import part
from p4d_jax.train.config import LoopConfig, Term


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """What every job with a head model is told.

    Attributes:
      job: The job to run, a module of `p4d_jax.jobs`.
      seed: Seed of every random choice.
      head: Head model: an embedded name, or the path of an .npz.
    """

    job: str = ""
    seed: int = 0
    head: str = "openhead"


@dataclasses.dataclass(frozen=True)
class ReenactSettings(JobSettings):
    """Brings a photo to life.

    Attributes:
      source: A photo: a path, or the example 'astronaut'; several of one person with commas: a.jpg,b.jpg.
      person: Of several people in the source's first photo: a number, from 1 at the left, as people.png shows
        them, or a point of the face, as 310,140 pixels; '' is the largest face.
      driving: What the head shall do: a film, a photo, a folder of photos, a motion .npz, a table of ARKit's
        actions .csv, or the name of an embedded motion.
      driving_person: Of several people in the driving, as `person`; of a film, in its first frame with a
        face.
      pose_driving: Another driver, whose head's rotation and way through the picture are taken; '' for none.
      gaze_driving: Another driver, whose gaze is taken; '' for none.
      blink_driving: Another driver, whose blinks are taken; '' for none.
      people: Other people in the source's first photo, by number as `person`, and what drives each:
        2=b.mp4,3=motion_talk; the film 'pasted' shows them all.
      max_frames: Frames of the driving that are used; the rest is left out.
      fps: Frames a second of the film; 0: the driving's own, 25 for a folder.
      reference_frame: Frame of the driving that stands for the photo; None: the most neutral one.
      relative_motion: Whether the driving's change since that frame is added to the photo; False takes the
        driving's pose and face as they are. None: of a film the change, of photos what they show.
      strength: How much of the driving is shown, part by part: 1 as the driver moves, 0 as the photo is.
      weights: Weights of the reconstructor: an embedded name, an exported file, or the folder of a converted
        model.
      motion_encoder: Folder of the converted motion encoder of a model that sees motion in pictures; '' looks
        beside the model's folder.
      personalise_steps: Steps of optimising the tri-planes for this one photo; 0 turns it off.
      neck_share: Fraction of the head rotation applied at the neck joint (1: the shoulders stay still; 0: the
        whole bust rotates).
      picture_size: Pixels a side of the head's pictures, a multiple of what the network was trained with; 0:
        as many as that, on an accelerator 512.
      coarse_samples: Evenly spaced samples a ray.
      fine_samples: Samples a ray placed where the coarse ones found something.
      panel: Height and width of one picture of the film, in pixels.
      films: Films that are written beside reenactment.mp4, with commas between: pasted, webm, prores, png.
      paste_into: A film of the person that 'pasted' pastes the head into: it keeps that film's head motion
        and takes the driving's face; '' is the photo.
      watermark: Marks of synthetic pictures that all films and stills get, with commas between: visible,
        invisible.
      exports: What is made beside the film, with commas between: turntable, depth, mesh, gltf, avatar,
        motion, arkit, stablehlo.
      turntable_frames: Frames of turntable.mp4.
      turntable_yaw: Degrees to either side that the turntable shows.
      mesh_resolution: Cells of marching cubes along a side of the box.
      stills: PNG pictures taken from the film, evenly spaced.
    """

    job: str = "reenact"
    source: str = "astronaut"
    person: str = ""
    driving: str = "motion_talk"
    driving_person: str = ""
    pose_driving: str = ""
    gaze_driving: str = ""
    blink_driving: str = ""
    people: str = ""
    max_frames: int = 240
    fps: float = 0.0
    reference_frame: int | None = None
    relative_motion: bool | None = None
    strength: Strength = part(Strength())
    weights: str = "reenact_demo"
    motion_encoder: str = ""
    personalise_steps: int = 25
    neck_share: float = 1.0
    picture_size: int = 0
    coarse_samples: int = 16
    fine_samples: int = 16
    panel: int = 384
    films: str = ""
    paste_into: str = ""
    watermark: str = ""
    exports: str = "turntable,depth,mesh"
    turntable_frames: int = 48
    turntable_yaw: float = 35.0
    mesh_resolution: int = 128
    stills: int = 5


@dataclasses.dataclass(frozen=True)
class ServeSettings(JobSettings):
    """Opens the page on which a photo's head is turned and moved.

    Attributes:
      host: Address to listen on; another one than this machine's own takes a token.
      port: Port to listen on.
      token: What everybody has to bring who opens the page; '' asks for none, on this machine alone.
      weights: Weights of the reconstructor: an embedded name, or an exported file.
      watermark: Marks of pictures and films that are taken home, with commas between: visible, invisible; ''
        is none.
      photo_megabytes: The largest photo.
      motion_megabytes: The largest film or motion file.
      max_frames: Frames of a film that are used; the rest is left out.
      sessions: People at once.
      away_seconds: Seconds after which somebody who has closed the page has gone, and with them all files.
      personalise_steps: Steps of optimisation that the page's button makes.
    """

    job: str = "serve"
    host: str = "127.0.0.1"
    port: int = 8014
    token: str = ""
    weights: str = "reenact_demo"
    watermark: str = "visible,invisible"
    photo_megabytes: float = 20.0
    motion_megabytes: float = 100.0
    max_frames: int = 240
    sessions: int = 8
    away_seconds: float = 60.0
    personalise_steps: int = 25


@dataclasses.dataclass(frozen=True)
class CaptureSettings(JobSettings):
    """Finds the head's parameters in a photo, a film or a folder.

    Attributes:
      source: A photo, a film, a folder of frames of one film, or the example 'astronaut'.
      person: Of several people: a number, from 1 at the left, or a point of the face, as 310,140 pixels; ''
        is the largest face.
      max_frames: Frames of a film that are used; 0: all.
      smoothing: Seconds, standard deviation in time of the filter that stills a film's head where only noise
        moves it; 0 turns it off.
      write_crops: Whether the 512 x 512 pictures are written beside the parameters.
      write_alphas: Whether a film's masks are written, too: about a second a frame, for data to train on.
      sources: Instead of the source: a folder of photos and films, or a text file with a path a line; each
        gets a folder of its own in the workdir, and the same command goes on where it stopped.
      runner: What captures the items: 'serial', or a runner of Apache Beam: DirectRunner, FlinkRunner,
        DataflowRunner.
      beam_options: Options of Beam and its runner, as '--direct_num_workers=2'.
    """

    job: str = "capture"
    source: str = "astronaut"
    person: str = ""
    max_frames: int = 0
    smoothing: float = 0.25
    write_crops: bool = True
    write_alphas: bool = False
    sources: str = ""
    runner: str = "serial"
    beam_options: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ConvertSettings:
    """Turns a released file into one of ours.

    Attributes:
      job: The job to run, a module of `p4d_jax.jobs`.
      source: A .pkl or .pth file, or several with commas between, each a network or, as VGG and LPIPS, pieces
        of one.
      network: Which network it is; '' finds out by its keys.
      part: Part of a file that holds several networks (G, D, G_ema); '' converts all that are known.
      scan: True lists what a pickle names and calls, and converts nothing.
      sha256: The sha256 that the source must have; '' prints what it has.
      download: Name of a released file that is fetched, or of a set of them, whose licences you accept by it:
        'portrait4d_v2' is the reconstructor with the encoder of its motion vectors.
      endpoint: Address of the Hugging Face hub; '': the usual one, or HF_ENDPOINT.
      masks: FLAME_masks.pkl, beside a FLAME pickle as source.
      landmarks: landmark_embedding.npy or landmark_embedding_with_eyes.npy, beside a FLAME pickle.
      mediapipe: mediapipe_landmark_embedding.npz, beside a FLAME pickle; '' leaves MediaPipe's landmarks out.
      decimation: The public implementation's simplify_baricentric2.npy; '' decimates here.
      neighbours: Its flame_addition_info_new_smallface.npy; '' takes each vertex's ring.
    """

    job: str = "convert"
    source: str = ""
    network: str = ""
    part: str = ""
    scan: bool = False
    sha256: str = ""
    download: str = ""
    endpoint: str = ""
    masks: str = ""
    landmarks: str = ""
    mediapipe: str = ""
    decimation: str = ""
    neighbours: str = ""


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """The scores that papers report, of pairs of photos and films of one's own.

    Attributes:
      pairs: A folder of photos and films, of which pairs are drawn, or a list of pairs (.jsonl) that an
        earlier run wrote; '' for none.
      folder: Where the files of a list lie; '': beside it.
      count: Pairs of each kind, self- and cross-reenactment, that are drawn at most.
      frames: Frames of each film that are compared.
      max_frames: Frames of a film's beginning, in which these lie.
      personalise_steps: Steps of optimising the tri-planes for each source.
      inception: Folder of inception_fid from the job convert; '': FID and KID are not measured.
      measures: What is measured, with commas: names in `evaluation.scores`.
    """

    pairs: str = ""
    folder: str = ""
    count: int = 50
    frames: int = 12
    max_frames: int = 240
    personalise_steps: int = 0
    inception: str = ""
    measures: str = (
        "psnr, ssim, ms_ssim, lpips, akd, csim, aed, apd, fid, kid, flicker, flicker_driver, flicker_error,"
        " consistency, face_found"
    )


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(JobSettings):
    """Measures a reconstructor on held-out synthetic people, on real photos, and on pairs of one's own.

    Attributes:
      weights: Weights of the reconstructor: an embedded name, or a path.
      sets: Sets of people, with commas: 'held_out', of training's kind; 'other', of another; '' for none.
      identities: People of each set.
      photos: Real photos, with commas: paths, or the example 'astronaut'; '' for none.
      resolution: Rays a side, of sets and photos; 0: what the model was made for.
      samples: Coarse, and as many fine, samples a ray.
      film_frames: Frames of each person's film, whose flicker is measured; 0: no films.
      lpips: Folder of lpips_vgg or lpips_alex from the job convert; '': LPIPS is not measured.
      arcface: Folder of arcface50 or arcface18; '': identity is measured by colours.
      evaluators: What is measured of the sets, with commas: names in `evaluation.evaluators`.
      scores: The scores that papers report.
    """

    job: str = "evaluate"
    weights: str = "reenact_demo"
    sets: str = "held_out"
    identities: int = 64
    photos: str = "astronaut"
    resolution: int = 0
    samples: int = 16
    film_frames: int = 6
    lpips: str = ""
    arcface: str = ""
    evaluators: str = "pictures, views, flicker, landmarks, expression, fits, identity"
    scores: ScoreSettings = part(ScoreSettings())


@dataclasses.dataclass(frozen=True)
class EvaluateGenHeadSettings(JobSettings):
    """Measures a GenHead: control by the head model, and consistency over views.

    Attributes:
      weights: Weights of the GenHead: an embedded name, or a path.
      resolution: Rays a side; 0 is what the weights were trained with.
      samples: Coarse, and as many fine, samples a ray.
      truncation_psi: Truncation of the codes, as in the synthesis of data: 1 is none, 0 the mean.
      samples_of_control: Heads whose control is measured.
      heads_of_consistency: Heads whose consistency over views is measured.
    """

    job: str = "evaluate_genhead"
    weights: str = "genhead_demo"
    resolution: int = 0
    samples: int = 24
    truncation_psi: float = 0.95
    samples_of_control: int = 256
    heads_of_consistency: int = 64


@dataclasses.dataclass(frozen=True)
class DatasetSettings:
    """One kind of stored samples. A sample is one identity.

    Attributes:
      motions: Motions of an identity.
      views: Views of each motion.
      shards: Files, which hosts share among them; 0 leaves this kind out. A shard is kept in no memory.
      samples: Samples in each file.
    """

    motions: int = 1
    views: int = 8
    shards: int = 2
    samples: int = 4


@dataclasses.dataclass(frozen=True)
class SynthesizeSettings(JobSettings):
    """Makes 4D training data with a GenHead.

    Attributes:
      weights: Weights of a GenHead: an embedded name, a file, or a folder that `convert` made.
      portraits: Motion .npz files, with commas, whose shapes and cameras are the data's; '' draws them.
      motions: Motion .npz files of clips, with commas, or an embedded name; '' takes the motion model.
      sheet_rows: Stored samples of each kind that sheet.png shows.
      film_frames: Frames of film.mp4; 0 leaves it out.
      film_motion: Motion .npz of that film, or an embedded name.
      film_seed: Seed of its identity.
      film_fps: Its frames a second.
      panel: Height and width of one picture of the film, in pixels.
      dynamic: Samples of one identity in several motions.
      static: Samples of one identity in one motion.
      settings: What is drawn and how it is shown. A resolution of 0 is that of the weights' training.
    """

    job: str = "synthesize"
    weights: str = "genhead_demo"
    portraits: str = ""
    motions: str = ""
    sheet_rows: int = 4
    film_frames: int = 72
    film_motion: str = "motion_talk"
    film_seed: int = 0
    film_fps: float = 24.0
    panel: int = 256
    dynamic: DatasetSettings = part(DatasetSettings(motions=4, views=2, shards=4))
    static: DatasetSettings = part(DatasetSettings())
    settings: SynthesisSettings = part(SynthesisSettings(resolution=0), without=("motions", "views"))


@dataclasses.dataclass(frozen=True)
class TrainGenHeadSettings(JobSettings):
    """Trains GenHead on single pictures. The defaults are the paper's, but for the data.

    Attributes:
      name: Name of the config, which the exported weights keep.
      batch: Pictures a step, over all devices.
      data: 'openheads', drawn on the device, or a folder of photos, or in which portrait_images lies.
      mirror: Whether photos are also shown flipped.
      readers: Threads a process that read photos; so many batches are read ahead.
      damaged: Photos that may be left out because they are damaged; each is named, and one more is an error.
      supersample: Samples a pixel and axis of OpenHeads' pictures; 1 is fastest, 2 gives smooth edges.
      precision: Number type of the networks' activations, 'float32' or 'bfloat16'.
      inception: Folder of Inception from the job convert, for FID every `evaluate_every` steps; ''
        measures none.
      fid_images: Pictures that FID generates, and as many of the data.
      model: Sizes of GenHead.
      discriminator: Sizes of the discriminator.
      terms: The loss table. Of each term, as a tuple of which the end may be left out: its weight, the
        numbers of images seen from which on it counts and no longer counts, and whether its weight fades to
        nothing in between; (0.0,) leaves it out. Ours are 'surface', solid under the head model's skin,
        and those of a step in which an encoder finds codes of real pictures and the generator gives these
        back: 'reconstruction', 'reconstruction_raw', 'reconstruction_mask', 'skin' and 'kl'.
      step: The training steps.
      loop: The loop around them.
      openheads: How widely OpenHeads are drawn.
    """

    job: str = "train_genhead"
    name: str = "genhead"
    batch: int = 32
    data: str = "openheads"
    mirror: bool = True
    readers: int = 4
    damaged: int = 0
    supersample: int = 1
    precision: str = "float32"
    inception: str = ""
    fid_images: int = 50_000
    model: GenHeadConfig = part(GenHeadConfig())
    discriminator: DiscriminatorConfig = part(DiscriminatorConfig())
    terms: dict[str, Term] = part(
        dict(PAPER_TERMS) | {name: Term(0.0) for name in ("surface", *RECONSTRUCTION)}
    )
    step: GenHeadStepConfig = part(GenHeadStepConfig(rematerialize=True, views_at_once=1), without=("terms",))
    loop: LoopConfig = part(LoopConfig(steps=781_250, final_share=1.0, evaluate_every=6250))
    openheads: OpenHeadsSettings = part(OpenHeadsSettings(), without=("supersample",))

    def drawn(self) -> OpenHeadsSettings:
        """All settings of OpenHeads."""
        return dataclasses.replace(self.openheads, supersample=self.supersample)


@dataclasses.dataclass(frozen=True)
class TrainReenactSettings(JobSettings):
    """Trains the reconstructor Psi. The defaults are the paper's, on a GenHead's data.

    Attributes:
      name: Name of the config, which the exported weights keep.
      batch: Pairs a step, over all devices.
      stored: Folder in which the job synthesize has written p4d_heads, for the source 'stored'.
      real_films: Folder of films, or in which portrait_clips lies, for the source 'real_films'.
      mirror: Whether real films are also shown flipped.
      damaged: Frames of real films that may be left out because they are damaged; each is named, and one more
        is an error.
      readers: Threads that read from disk; each reads a batch, and so many are kept ready.
      static_share: Share of pairs that show one motion from two sides, with cross-attention times 0.
      start: Weights to start from: a path, or an embedded name; '': random ones.
      static: Weights of the frozen static model of v2, which turns frames to other sides; '': none.
      multiview_every: Steps between two comparisons with that model from a random side.
      multiview_weight: Weight of that comparison.
      multiview_motion: Probability that a motion is seen in one of that model's views.
      photos: Photos of a person that make one source; more than 1 with OpenHeads and films alone. Ours.
      supersample: Samples a pixel and axis of OpenHeads' pictures; 1 is fastest, 2 gives smooth edges.
      yaw_balance: Probability that a view's yaw is drawn evenly from its whole range. Ours.
      closed_eyes: Probability that both eyes are shut, beside those that a motion shuts. Ours.
      sharp_backgrounds: Probability of OpenHeads before a background in focus. Ours.
      fit_noise: Factor of what landmarks leave open of a shape, by which given shapes are off. Ours.
      evaluate_people: People of another draw, measured every `evaluate_every` steps; 0: none.
      evaluators: What is measured of them, with commas: names in `evaluation.evaluators`.
      genhead: The GenHead that makes the data: a folder, a file or an embedded name.
      genhead_resolution: Its rays a side.
      genhead_samples: Its coarse and fine samples a ray.
      motion: Where motion vectors come from: 'pdfgc' sees them in pictures, 'flame_motion' takes parameters.
      pdfgc: Folder of PD-FGC from the job convert.
      perceptual: Perceptual distance of L_re: 'lpips', or its substitute 'structure', which needs no weights.
      lpips: Folder of lpips_vgg from the job convert.
      arcface: Folder of arcface50 from the job convert.
      discriminator: Folder of that GenHead's discriminator from the job convert.
      relief_alone: Images of which a model with photo features learns the relief alone, since what the relief
        says is a density.
      adam: Adam's beta1, beta2 and epsilon.
      clip_norm: Largest norm of the gradient; 0: any.
      data: Pairs of a batch by source. Drawn on the devices: 'genhead', 'openheads', 'films' (OpenHeads
        before one camera each). Read from disk: 'stored', 'real_films'.
      terms: The loss table. Of each term, as a tuple of which the end may be left out: its weight, and the
        numbers of images seen from which on it counts and no longer counts; (0.0,) leaves it out.
      model: Sizes of Psi.
      step: The training steps.
      loop: The loop around them.
      openheads: How widely OpenHeads are drawn.
    """

    job: str = "train_reenact"
    name: str = "reconstructor"
    batch: int = 32
    stored: str = ""
    real_films: str = ""
    mirror: bool = True
    damaged: int = 0
    readers: int = 4
    static_share: float = 0.5
    start: str = ""
    static: str = ""
    multiview_every: int = 4
    multiview_weight: float = 1.0
    multiview_motion: float = 0.9
    photos: int = 1
    supersample: int = 1
    yaw_balance: float = 0.0
    closed_eyes: float = 0.0
    sharp_backgrounds: float = 0.0
    fit_noise: float = 0.0
    evaluate_people: int = 0
    evaluators: str = "pictures, views, landmarks, expression"
    genhead: str = "genhead"
    genhead_resolution: int = 64
    genhead_samples: tuple[int, int] = (48, 48)
    motion: str = "pdfgc"
    pdfgc: str = "pdfgc"
    perceptual: str = "lpips"
    lpips: str = "lpips"
    arcface: str = "arcface"
    discriminator: str = "discriminator"
    relief_alone: float = 0.0
    adam: tuple[float, float, float] = (0.9, 0.999, 1e-5)
    clip_norm: float = 0.0
    data: dict[str, int] = part({"genhead": 32, "openheads": 0, "films": 0, "stored": 0, "real_films": 0})
    terms: dict[str, Term] = part(
        {
            "image": Term(1.0),
            "upscaled": Term(0.0),
            "raw": Term(1.0),
            "foreground": Term(1.0),
            "background": Term(1.0),
            "features": Term(1.0, 0.0, 400_000.0),
            "triplane": Term(0.1, 0.0, 400_000.0),
            "depth": Term(1.0, 0.0, 400_000.0),
            "opacity": Term(0.3),
            "photo_depth": Term(0.0),
            "photo_opacity": Term(0.0),
            "identity": Term(1.0, 400_000.0),
            "adversarial": Term(0.01, 1_000_000.0),
            "density": Term(0.25),
        }
    )
    model: ReconstructorConfig = part(ReconstructorConfig(dtype="bfloat16"))
    step: StepConfig = part(
        StepConfig(
            stages=((0, 64), (1_200_000, 80), (1_500_000, 96), (1_800_000, 112), (2_000_000, 128)),
            rematerialize=True,
            views_at_once=1,
        ),
        without=("terms",),
    )
    loop: LoopConfig = part(
        LoopConfig(steps=468_750, peak_rate=1e-4, final_share=1.0, evaluate_every=6250, best_is="highest")
    )
    openheads: OpenHeadsSettings = part(
        OpenHeadsSettings(), without=("supersample", "yaw_balance", "closed_eyes", "sharp_backgrounds")
    )

    def __post_init__(self):
        self.drawn()  # refuses what OpenHeads refuse

    def drawn(self) -> OpenHeadsSettings:
        """All settings of OpenHeads."""
        return dataclasses.replace(
            self.openheads,
            supersample=self.supersample,
            yaw_balance=self.yaw_balance,
            closed_eyes=self.closed_eyes,
            sharp_backgrounds=self.sharp_backgrounds,
        )


SETTINGS = {
    "capture": CaptureSettings,
    "convert": ConvertSettings,
    "evaluate": EvaluateSettings,
    "evaluate_genhead": EvaluateGenHeadSettings,
    "reenact": ReenactSettings,
    "serve": ServeSettings,
    "synthesize": SynthesizeSettings,
    "train_genhead": TrainGenHeadSettings,
    "train_reenact": TrainReenactSettings,
}
