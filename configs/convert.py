"""A released file into ours: --config.source=portrait4d-v2-vfhq512.pkl."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "convert"
    # What goes in
    config.source = ""  # .pkl or .pth; several that make one network, as VGG and LPIPS, with commas between
    config.network = ""  # which network it is; '' finds out by its keys
    config.part = ""  # of a file that holds several networks (G, D, G_ema); '' converts all that are known
    config.sha256 = ""  # that the source must have; '' prints what it has
    # Or fetched: a name of convert/released.py, whose licence you accept by it
    config.download = ""  # for example 'portrait4d-v2-vfhq512'
    config.endpoint = ""  # of the Hugging Face hub; '' the usual one, or HF_ENDPOINT
    # Beside a FLAME pickle as source
    config.masks = ""  # FLAME_masks.pkl
    config.landmarks = ""  # landmark_embedding.npy or landmark_embedding_with_eyes.npy
    config.mediapipe = ""  # mediapipe_landmark_embedding.npz; '' leaves MediaPipe's landmarks out
    config.decimation = ""  # the public implementation's simplify_baricentric2.npy; '' decimates here
    config.neighbours = ""  # its flame_addition_info_new_smallface.npy; '' takes each vertex's ring
    return config
