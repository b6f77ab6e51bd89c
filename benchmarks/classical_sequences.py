"""Accuracy and speed of the classical predictor on folders of frames, without the engine.

The loop stands in for the engine: the context is the recent frames and the keyframes, and a
frame's pose follows from its most confident edge. ``r3 run`` measures the whole thing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import time

import cv2
import numpy as np
from scipy.spatial.transform import Rotation
import yaml

from r3_ros.classical.odometry import Mode, Odometry
from r3_ros.classical.pinhole import Pinhole


def umeyama(a, b):
    ma, mb = a.mean(0), b.mean(0)
    U, S, Vt = np.linalg.svd((b - mb).T @ (a - ma) / len(a))
    D = np.diag([1, 1, np.linalg.det(U @ Vt)])
    R = U @ D @ Vt
    s = np.trace(np.diag(S) @ D) / ((a - ma) ** 2).sum() * len(a)
    return s, R, mb - s * R @ ma


def load(folder):
    folder = Path(folder)
    cam = yaml.safe_load((folder / 'camera.yaml').read_text())
    K = np.array(cam['camera_matrix']['data'], float).reshape(3, 3)
    D = np.array(cam['distortion_coefficients']['data'], float)
    names = [l.split() for l in (folder / 'timestamps.txt').read_text().splitlines() if l[0] != '#']
    gt = None
    if (folder / 'groundtruth.txt').exists():
        g = np.loadtxt(folder / 'groundtruth.txt')
        gt = {f'{r[0]:.6f}': r[1:] for r in g}
    return K, D, [(float(t), folder / n) for t, n in names], gt


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('folder')
    ap.add_argument('--frames', type=int, default=10**9)
    ap.add_argument('--features', type=int, default=700)
    ap.add_argument('--window', type=int, default=7)
    ap.add_argument('-v', action='store_true')
    a = ap.parse_args()
    cv2.setNumThreads(1)
    K, D, names, gt = load(a.folder)
    names = names[: a.frames]
    imgs = [cv2.imread(str(n), 0) for _, n in names]
    h, w = imgs[0].shape
    if abs(D).max() > 0:
        m1, m2 = cv2.initUndistortRectifyMap(K, D, None, K, (w, h), cv2.CV_32FC1)
        imgs = [cv2.remap(i, m1, m2, cv2.INTER_LINEAR) for i in imgs]
    cam = Pinhole(K[0, 0], K[1, 1], K[0, 2], K[1, 2], w, h)
    od = Odometry(cam, a.features, a.window, False)
    poses, modes, ts = [], [], []
    recents, kfs = [], []
    for i, im in enumerate(imgs):
        t = time.perf_counter()
        o = od.step(i, im)
        if o.keyframe:
            kfs.append(i)
        recents.append(i)
        while len(recents) > 5:
            j = recents.pop(0)
            if j not in kfs:
                od.forget(j)
        ts.append(time.perf_counter() - t)
        poses.append(od._T.copy() if o.posed else None)
        modes.append(od.mode)
        if a.v:
            print(i, od.mode.value, o.keyframe, o.inliers, f'{o.share:.2f}', len(od._slots),
                  f'{od._start.rotation_error_px:.2f}', f'{ts[-1]*1e3:.0f}ms')
    ts = np.array(ts)
    tracked = [i for i, (p, m) in enumerate(zip(poses, modes)) if p is not None and m is Mode.TRACKING]
    iskf = np.zeros(len(ts), bool); iskf[kfs] = True
    print(f'{Path(a.folder).name}: tracked {len(tracked)}/{len(imgs)} first {tracked[0] if tracked else None} kfs {len(kfs)} '
          f'fps {1/ts.mean():.1f} median {np.median(ts[~iskf])*1e3:.0f} kf {np.median(ts[iskf])*1e3:.0f} p95 {np.percentile(ts,95)*1e3:.0f} lm {len(od.landmarks)}')
    if gt and tracked:
        G = np.stack([gt[f'{names[i][0]:.6f}'] for i in tracked])
        path = np.linalg.norm(np.diff(np.stack([gt[f'{t:.6f}'] for t, _ in names])[:, :3], axis=0), axis=1).sum()
        P = np.stack([poses[i] for i in tracked])
        s, R, t = umeyama(P[:, :3, 3], G[:, :3])
        e = np.linalg.norm(s * P[:, :3, 3] @ R.T + t - G[:, :3], axis=1)
        Rg = Rotation.from_quat(G[:, 3:])
        Rp = Rotation.from_matrix(P[:, :3, :3])
        A = (Rg * Rp.inv()).mean()
        rot = np.rad2deg((Rg.inv() * A * Rp).magnitude())
        print(f'  ATE {100*np.sqrt((e**2).mean())/path:.3f}% rot {rot.mean():.2f}  path {path:.2f}')
    od.close()


if __name__ == '__main__':
    main()
