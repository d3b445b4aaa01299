"""The published algorithms, written straightforwardly in NumPy: what the benchmarks and their tests compare with."""
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def _patch(a, b, size, sigma):
    "The pixels around a limb from a to b (D,): slices, one for each image axis, and the values of the limb there."
    low = np.clip(np.floor(np.minimum(a, b) - 3 * sigma), 0, size).astype(int)
    high = np.clip(np.ceil(np.maximum(a, b) + 3 * sigma) + 1, 0, size).astype(int)
    p = np.stack(np.meshgrid(*(np.arange(i, j) for i, j in zip(low, high)), indexing="ij"), -1)
    u = b - a
    t = np.clip((p - a) @ u / (u @ u), 0, 1)[..., None] if u.any() else 0.0
    d = np.linalg.norm(p - a - t * u, axis=-1)
    return tuple(slice(i, j) for i, j in zip(low, high)), np.where(d <= 3 * sigma, np.exp(-d ** 2 / (2 * sigma ** 2)), 0)


def _draw(image, ends, sigma):
    "Draw limbs (L, 2 ends, D), in image-axis order, into `image` (*D sizes), one after the other: the larger value stays."
    for a, b in ends:
        window, values = _patch(a, b, len(image), sigma)
        image[window] = np.maximum(image[window], values)


def limbs_2d(
    joints,      # (F, K, 2) in pixels
    limbs,       # (L, 2) joint indices
    size=128,    # side of the image, in pixels
    sigma=0.75,  # in pixels
):               # (F, size, size) float32 in [0, 1]
    "Limbs as soft segments: a patch for each limb and frame, the maximum over limbs."
    out = np.zeros((len(joints), size, size), np.float32)
    for image, frame in zip(out, joints): _draw(image, frame[limbs, ::-1].astype(float), sigma)
    return out


def triplanes_by_volume(
    joints,      # (F, K, 3) in voxels
    limbs,       # (L, 2) joint indices
    size=128,    # side of the volume, in voxels
    sigma=0.75,  # in voxels
    apart=True,  # a volume for each limb, as published, or one for all
):               # (3, F, size, size) float32: along x (rows y, columns z), along y (rows z, columns x), along z (rows y, columns x)
    "Fill the volume of every frame limb by limb, and take maxima along its axes."
    out = np.zeros((3, len(joints), size, size), np.float32)
    for f, frame in enumerate(joints):
        ends = frame[limbs, ::-1].astype(float)
        volumes = np.zeros((len(limbs) if apart else 1, size, size, size), np.float32)
        for l in range(len(limbs)): _draw(volumes[l if apart else 0], ends[l:l + 1], sigma)
        volume = volumes.max(0)
        out[:, f] = volume.max(2).T, volume.max(1), volume.max(0)
    return out


def paper_metrics(
    target,  # (B, C, F, H, W) in [0, 1]
    pred,    # the same shape
):           # ssim, psnr, l1
    "SSIM, PSNR and L1 with scikit-image, frame by frame; PSNR of a frame is that of its error over clips and channels."
    frames = target.shape[2]
    ssim, psnr, l1 = np.zeros((3, frames))
    for f in range(frames):
        x, y = target[:, :, f], pred[:, :, f]
        ssim[f] = np.mean([structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
                           for a, b in zip(x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:]))])
        psnr[f], l1[f] = peak_signal_noise_ratio(x, y, data_range=1), np.abs(x - y).mean()
    return dict(ssim=ssim.mean(), psnr=psnr.mean(), l1=l1.mean())
