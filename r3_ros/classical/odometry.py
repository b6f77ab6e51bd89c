"""Keyframe visual odometry: tracked corners, poses from landmarks, bundle adjustment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
import enum

import numpy as np
from scipy.spatial import cKDTree

from ..core.geometry import inverse, make_T, rotation_angle, transform
from . import mapping
from .backend import Backend
from .features import align, track_fast
from .focal import FocalEstimate
from .initialise import Start, StartUp
from .landmarks import corner_weights, HeldFrame, LEAST_SOLID, Observations, SparseMap
from .pinhole import homogeneous, Pinhole, project
from .pnp import (
    ExpectedCentre,
    INLIER_PX,
    LEAST_INLIERS,
    makes_pose,
    ransac_pose,
    refine_pose,
    reprojection_px,
)
from .relocalise import LEAST_VERIFIED_SHARE, PoseCandidate, Relocaliser
from .saved_landmarks import KnownMap
from .sweep import Swept
from .two_views import contradicting_motion, least_errors, LEAST_POINTS, TwoViews
from .window import Motion

#: A new keyframe when less than this share of the last one's landmarks is still tracked ...
KEYFRAME_SHARE = 0.75
#: ... or when the flow without rotation exceeds this share of the width.
KEYFRAME_FLOW = 0.03
#: ... or when less than this share of the corners that it began with is still tracked.
KEYFRAME_FOLLOWED = 0.5
#: A pose needs this share of the tracked landmarks, or of all corners where landmarks are few.
LEAST_SHARE = 0.4
#: A tracked pose needs this share of the landmarks in view. With less than what a relocalisation
#: needs it is unsure.
FOUND_SHARE = 0.1
#: The camera is expected to move on as in the last frame, with these standard deviations: a share
#: of that motion, and a share of the map's unit. Landmarks know better; that decides where hardly
#: any is left, and a turn and a shift of corners of unknown depth look alike.
MOTION_SIGMA = 0.3
STILL_SIGMA = 2e-3
#: A keyframe with fewer inliers is adjusted before its pose is reported; and a pose with fewer is
#: compared with the motion that all corners tell.
THIN_INLIERS = 200
#: The unit of length is unsure after a pose that fewer landmarks hold, until older ones are seen.
UNIT_INLIERS = 12
#: Landmarks that tell the unit of a motion; without them the expected motion does, within
#: MOTION_SIGMA.
UNIT_LANDMARKS = 60
#: While starting, a new reference image is taken when less of the old one is still tracked.
RENEW_SHARE = 0.5
#: Keyframes matched by descriptor when tracking fails, the share of their landmarks that has to
#: be found, and the largest rotation from the guess.
NEAR_KEYFRAMES = 2
NEAR_SHARE = 0.1
NEAR_TURN_RAD = 0.45
#: For this many frames after a loss the last good image is tried; its pose needs this share of the
#: landmarks in that image. Then a new segment starts.
PICK_UP_STEPS = 3
PICK_UP_SHARE = 0.3
#: Keyframes that take turns in a search beside the most similar one. Two cost as much as tracking.
SEARCHED_KEYFRAMES = 4
#: Own landmarks beside those of another segment that compare the units of the two, at least, their
#: distance in pixels, and the scatter of the logarithm of the ratio of depths.
SHARED_LANDMARKS = 12
SHARED_PX = 12.0
SHARED_SCATTER = 0.25
#: Frames that have to be tracked after a relocalisation to confirm it.
CONFIRMING_FRAMES = 3


class Mode(enum.Enum):
    """The state of the odometry."""

    STARTING = 'starting'
    TRACKING = 'tracking'
    LOST = 'lost'


@dataclass
class Outcome:
    """The result of one frame.

    :ivar posed: the frame has a pose in the map (or a provisional one while starting).
    :ivar keyframe: it became a keyframe.
    :ivar settled: earlier frames whose poses are known by the start that this frame made.
    :ivar swept: dense depth of held keyframes that is now ready.
    :ivar unconfirmed: the camera was relocalised just now, or hardly any landmark holds the pose.
    :ivar unit_unsure: hardly any landmark was seen throughout, so the unit of length may have
        changed.
    :ivar elsewhere: the frame in the world of another segment, for comparison.
    :ivar tracks: (N, 2) pixels of corners in the image before, and (N, 2) in this one; None if the
        images were not related.
    """

    posed: bool
    keyframe: bool = False
    settled: tuple[int, ...] = ()
    swept: list[Swept] = field(default_factory=list)
    unconfirmed: bool = False
    unit_unsure: bool = False
    elsewhere: Elsewhere | None = None
    tracks: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Elsewhere:
    """A frame of one segment in the world of another one.

    :ivar frame: it, with that pose and the landmarks found there.
    :ivar unit: length of its own segment's unit in that of the other.
    """

    frame: HeldFrame
    unit: float


@dataclass(frozen=True)
class _Fitted:
    """A pose of the present image, and the corners that fit it.

    :ivar inliers: landmarks among them.
    :ivar anew: it contradicts the landmarks, some of which were replaced.
    :ivar unsure: hardly any landmark holds it, so that the unit of length may change.
    """

    T_world_camera: np.ndarray
    slots: np.ndarray
    pixels: np.ndarray
    inliers: int
    anew: bool = False
    unsure: bool = False

    @classmethod
    def of(cls, found: PoseCandidate) -> _Fitted:
        return cls(found.T_world_camera, found.slots, found.pixels, len(found.slots))


class Odometry:
    """The state between frames, and the step from one to the next.

    :param guessed_focal: the focal length of the camera is a guess, and to be estimated.
    :param planes: of the plane sweeps; 0 for no dense depth.
    :param fill: give every pixel of a keyframe a depth.
    """

    def __init__(
        self,
        camera: Pinhole,
        corner_count: int,
        window_size: int,
        guessed_focal: bool = False,
        planes: int = 0,
        fill: bool = False,
    ):
        self.map = SparseMap(camera)
        self.frames, self.landmarks = self.map.frames, self.map.landmarks
        self.mode = Mode.STARTING
        self._corner_count = corner_count
        # At this distance the corners fill the image.
        area = camera.width * camera.height
        self._distance = max(5.0, 0.42 * (area / corner_count) ** 0.5)
        self._focal = FocalEstimate(camera.focal) if guessed_focal else None
        self._start = StartUp(corner_count, self._distance, self._focal)
        self._backend = Backend(self.map, window_size, self._focal, planes, fill)
        self._relocaliser = Relocaliser()
        self._lost_steps = 0
        self._newest_segment = 0
        self._searches = 0
        #: Frames until a relocalisation is confirmed.
        self._unconfirmed = 0
        #: The landmarks from before the unit of length became unsure; None while it is sure.
        self._surer: Observations | None = None
        self._slots = np.zeros(0, np.int64)
        self._pixels = np.zeros((0, 2))
        #: Of the newest image, as :attr:`Outcome.tracks`.
        self._tracks: tuple[np.ndarray, np.ndarray] | None = None
        self._gray = np.empty((0, 0), np.uint8)
        self._T = np.eye(4)
        self._velocity = np.eye(4)
        self._key_id = -1
        self._key_count = 0
        self._key_followed = 0
        self._reference_T = np.eye(4)

    def enter(self, known: KnownMap) -> None:
        """Begin with a saved map, lost in it."""
        known.enter(self.map)
        self._restart()

    @property
    def start_rotation_sigma(self) -> float:
        """Return the standard deviation of the rotation since the reference image, in radians."""
        return max(self._start.rotation_error_px, 0.1) / self.camera.focal

    @property
    def camera(self) -> Pinhole:
        return self.map.camera

    @property
    def focal_sigma(self) -> float:
        """Return the relative standard deviation of the focal length; 0 if it was given."""
        return 0.0 if self._focal is None else self._focal.sigma

    def drain(self) -> list[Swept]:
        """Wait for running jobs, and for one more adjustment and sweep."""
        motions, swept = self._backend.drain()
        self._move_along(motions)
        return swept

    def close(self) -> None:
        """Stop the background threads."""
        self._backend.close()

    def step(self, frame_id: int, gray: np.ndarray, context_ids: Sequence[int] = ()) -> Outcome:
        """Process one frame.

        :param context_ids: held frames to search when lost, the most similar first.
        """
        motions, swept = self._backend.step()
        self._move_along(motions)
        if self.mode is Mode.STARTING:
            outcome = self._step_start(frame_id, gray, context_ids)
        elif self.mode is Mode.TRACKING:
            outcome = self._step_track(frame_id, gray)
        else:
            outcome = self._step_lost(frame_id, gray, context_ids)
        if outcome.keyframe and self.mode is Mode.TRACKING:
            outcome.elsewhere = self._find_elsewhere(self.frames[frame_id], context_ids)
        outcome.swept = swept
        return outcome

    def _move_along(self, motions: list[Motion]) -> None:
        for motion in motions:
            self._T = motion.of_pose(self._T)
            self._velocity[:3, 3] *= motion.scale
        alive = self.landmarks.used[self._slots]
        self._slots, self._pixels = self._slots[alive], self._pixels[alive]

    # ---- start-up -------------------------------------------------------------------------

    def _restart(self) -> None:
        """Begin a segment with a world of its own."""
        self.mode = Mode.STARTING
        self._surer = None
        self.map.segment = self._newest_segment = self._newest_segment + 1
        if self._focal is not None:
            self._focal.new_segment()
        # Without a reference the next frame becomes one.
        self._start.reference_id = -1
        self._T = self._reference_T = np.eye(4)

    def _step_start(self, frame_id: int, gray: np.ndarray, context_ids: Sequence[int]) -> Outcome:
        """Hold the position and track the rotation until a start succeeds.

        Unless the camera sees a place of another segment.
        """
        found = self._search(gray, context_ids)
        if found is not None:
            return self._go_on(frame_id, gray, found)
        frame = self.map.hold(frame_id, gray, self._T)
        usable = self._start.reference_id in self.frames
        if not usable or not self._start.add(frame_id, gray, self.camera):
            return self._refer_to(frame)
        R = self._start.R_camera_reference.T
        self._T = self._reference_T @ make_T(R, np.zeros(3))
        frame.T_world_camera = self._T.copy()
        start = self._start.try_start(self.camera)
        if start is not None:
            self._begin(start, frame, gray)
            return Outcome(True, True, tuple(range(start.frame_ids[0], frame_id)))
        if self._start.tracked_share < RENEW_SHARE:
            return self._refer_to(frame)
        return Outcome(True, False)

    def _refer_to(self, frame: HeldFrame) -> Outcome:
        self._reference_T = self._T.copy()
        self._start.set_reference(frame.frame_id, frame.gray)
        # Without corners it cannot be a reference, and need not be kept.
        frame.keyframe = self._start.corners >= LEAST_POINTS
        return Outcome(True, frame.keyframe)

    def _begin(self, start: Start, frame: HeldFrame, gray: np.ndarray) -> None:
        """Add a start to the map: two keyframes, and poses of the held frames between."""
        self.map.camera = start.camera
        if self._focal is not None:
            self._focal.started(start.camera.focal)
        T_world_reference = self._reference_T
        world = transform(T_world_reference, start.points)
        for frame_id, T in zip(start.frame_ids, start.T_camera_reference, strict=True):
            held = self.frames.get(frame_id)
            if held is not None:
                held.T_world_camera = T_world_reference @ inverse(T)
        solid = start.solid
        reference = self.frames[start.frame_ids[0]]
        pixels = start.pixels.astype(np.float64)
        slots = self.landmarks.add(world, reference, pixels[0])
        self.landmarks.solid[slots] = solid
        self.landmarks.relative_sigma[slots] = start.relative_sigma
        for frame_id, seen in zip(start.frame_ids, pixels, strict=True):
            held = self.frames.get(frame_id)
            if held in (reference, frame):
                held.keyframe = True
                mapping.add_observations(held, self.map, slots, seen)
            elif held is not None:
                held.seen = Observations.of(self.landmarks, slots[solid], seen[solid])
        guess = mapping.guess_depth(reference, self.map, pixels[0][~solid])
        in_camera = homogeneous(self.camera.rays(pixels[0][~solid])) * guess[:, None]
        self.landmarks.position[slots[~solid]] = transform(T_world_reference, in_camera)
        self._velocity = start.T_camera_reference[-2] @ inverse(start.T_camera_reference[-1])
        self._T = frame.T_world_camera.copy()
        self._slots, self._pixels, self._gray = slots, pixels[-1], gray
        self.mode = Mode.TRACKING
        self._finish_keyframe(frame)

    # ---- tracking -------------------------------------------------------------------------

    def _step_track(self, frame_id: int, gray: np.ndarray) -> Outcome:
        """Track the corners; if that fails, search for the landmarks of the last keyframes."""
        T_guess = self._T @ self._velocity
        fitted = self._track(gray, T_guess, self._expected_centre(T_guess)) or self._find_near(
            gray, T_guess
        )
        if fitted is None:
            self.mode, self._lost_steps = Mode.LOST, 0
            return Outcome(False)
        self._unconfirmed = max(0, self._unconfirmed - 1)
        return replace(self._accept(frame_id, gray, fitted), tracks=self._tracks)

    def _step_lost(self, frame_id: int, gray: np.ndarray, context_ids: Sequence[int]) -> Outcome:
        """Track from the last good image, or find a known place; else start again."""
        self._lost_steps += 1
        self._velocity = np.eye(4)
        before = int(self.landmarks.solid[self._slots].sum())
        fitted = self._track(gray, self._T)
        if fitted is not None and fitted.inliers >= PICK_UP_SHARE * before:
            self.mode = Mode.TRACKING
            self._T = fitted.T_world_camera
            return self._accept(frame_id, gray, fitted)
        found = self._search(gray, context_ids, everywhere=True)
        if found is not None:
            return self._go_on(frame_id, gray, found)
        if self._lost_steps >= PICK_UP_STEPS:
            self._restart()
        return Outcome(False)

    def _search(
        self, gray: np.ndarray, context_ids: Sequence[int], everywhere: bool = False
    ) -> PoseCandidate | None:
        """Look for the image in the context frames, of other segments alone or everywhere."""
        held = [self.frames.get(i) for i in context_ids]
        keyframes = [f for f in held if f is not None and f.keyframe]
        if not everywhere:
            keyframes = [f for f in keyframes if f.segment != self.map.segment]
        turns = keyframes[1 : 1 + SEARCHED_KEYFRAMES]
        self._searches += 1
        chosen = keyframes[:1] + ([turns[self._searches % len(turns)]] if turns else [])
        return self._relocaliser.find(gray, chosen, self.map, self._distance) if chosen else None

    def _go_on(self, frame_id: int, gray: np.ndarray, found: PoseCandidate) -> Outcome:
        """Track on from a place that was found, in its segment."""
        self.mode, self.map.segment = Mode.TRACKING, found.segment
        self._T, self._velocity = found.T_world_camera, np.eye(4)
        self._unconfirmed = CONFIRMING_FRAMES
        return self._accept(frame_id, gray, _Fitted.of(found))

    def _find_elsewhere(self, frame: HeldFrame, context_ids: Sequence[int]) -> Elsewhere | None:
        """Return a keyframe in the world of another segment, if it shows a place of that."""
        found = self._search(frame.gray, context_ids)
        if found is None:
            return None
        own, pixels = frame.seen.solid(self.landmarks)
        if len(own) < SHARED_LANDMARKS:
            return None
        distance, nearest = cKDTree(pixels).query(found.pixels)
        beside = distance < SHARED_PX
        T = inverse(frame.T_world_camera)
        depth = transform(T, self.landmarks.position[own])[nearest[beside], 2]
        ratio = np.log(found.depth[beside] / np.maximum(depth, 1e-9))
        if len(ratio) < SHARED_LANDMARKS:
            return None
        middle = float(np.median(ratio))
        if float(np.median(np.abs(ratio - middle))) > SHARED_SCATTER:
            return None
        seen = Observations.of(self.landmarks, found.slots, found.pixels)
        there = HeldFrame(frame.frame_id, frame.gray, found.T_world_camera, found.segment, seen)
        return Elsewhere(there, float(np.exp(middle)))

    def _accept(self, frame_id: int, gray: np.ndarray, fitted: _Fitted) -> Outcome:
        slots, pixels = fitted.slots, fitted.pixels
        self._velocity = inverse(self._T) @ fitted.T_world_camera
        self._T = fitted.T_world_camera
        self._slots, self._pixels, self._gray = slots, pixels, gray
        unsure = self._is_unit_unsure(fitted)
        frame = self.map.hold(frame_id, gray, self._T)
        # The map does not grow from a pose that may be wrong.
        keyframe = not self._unconfirmed and self._wants_keyframe(slots, pixels)
        if keyframe:
            self._add_keyframe(frame)
            if fitted.inliers < THIN_INLIERS:
                self._move_along(self._backend.adjust_now())
        else:
            frame.seen = Observations.of(self.landmarks, slots, pixels)
        doubted = self._unconfirmed > 0 or fitted.inliers < LEAST_INLIERS
        return Outcome(True, keyframe, unconfirmed=doubted, unit_unsure=unsure)

    def _is_unit_unsure(self, fitted: _Fitted) -> bool:
        """Return whether too few landmarks were seen throughout to compare lengths."""
        if self._surer is None:
            if fitted.inliers < UNIT_INLIERS or fitted.unsure:
                slots = np.flatnonzero(self.landmarks.solid)
                pixels = self.landmarks.first_pixel[slots]
                self._surer = Observations.of(self.landmarks, slots, pixels)
        else:
            alive = self._surer.slots[self._surer.alive(self.landmarks)]
            if np.isin(fitted.slots, alive).sum() >= LEAST_INLIERS:
                self._surer = None
        return self._surer is not None

    def _expected_centre(self, T_guess: np.ndarray) -> ExpectedCentre:
        """Return where the last motion would lead to."""
        length = float(np.linalg.norm(self._velocity[:3, 3]))
        return ExpectedCentre(T_guess[:3, 3], MOTION_SIGMA * length + STILL_SIGMA)

    def _track(
        self, gray: np.ndarray, T_guess: np.ndarray, expected: ExpectedCentre | None = None
    ) -> _Fitted | None:
        pixels, ok = track_fast(self._gray, gray, self._pixels, self._expected(T_guess))
        slots, pixels = self._slots[ok], pixels[ok].astype(np.float64)
        self._tracks = self._pixels[ok], pixels
        fitted = self._fit(slots, self._without_drift(gray, slots, pixels), expected)
        if fitted is None or fitted.anew:
            return fitted
        share = self._found_share(fitted)
        if share < FOUND_SHARE:
            return None
        return replace(fitted, unsure=share < LEAST_VERIFIED_SHARE)

    def _found_share(self, fitted: _Fitted) -> float:
        """Return the share that was found of the landmarks that the pose has in view.

        On a repeated pattern a few agree on a pose that is off by a repeat; blur hides many.
        """
        landmarks = self._slots[self.landmarks.solid[self._slots]]
        expected, depth = self.camera.pixels_of_points(
            self.landmarks.position[landmarks], inverse(fitted.T_world_camera)
        )
        visible = int(((depth > 0) & self.camera.inside(expected, 8.0)).sum())
        return 1.0 if visible < LEAST_SOLID else fitted.inliers / visible

    def _without_drift(
        self, gray: np.ndarray, slots: np.ndarray, pixels: np.ndarray
    ) -> np.ndarray:
        """Return the pixels, aligned to the patches of the last keyframe where they are alike.

        From image to image the errors of a tracked corner add up.
        """
        key = self.frames.get(self._key_id)
        if key is None:
            return pixels
        index, then = self._seen_in(key, slots)
        if len(index) == 0:
            return pixels
        aligned, ok = align(key.gray, gray, then, pixels[index])
        pixels = pixels.copy()
        pixels[index[ok]] = aligned[ok]
        return pixels

    def _seen_in(self, frame: HeldFrame, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the slots that a frame saw too, and their pixels there."""
        row_of_slot = np.full(len(self.landmarks.used), -1)
        row_of_slot[slots] = np.arange(len(slots))
        rows = row_of_slot[frame.seen.slots]
        use = (rows >= 0) & frame.seen.alive(self.landmarks)
        return rows[use], frame.seen.pixels[use]

    def _find_near(self, gray: np.ndarray, T_guess: np.ndarray) -> _Fitted | None:
        """Match the newest keyframes by descriptor, for motion too fast to track."""
        newest = self.map.keyframes()[-NEAR_KEYFRAMES:]
        found = self._relocaliser.find(gray, newest, self.map, self._distance, NEAR_SHARE)
        if found is None:
            return None
        turned = rotation_angle((inverse(T_guess) @ found.T_world_camera)[:3, :3])
        return _Fitted.of(found) if turned < NEAR_TURN_RAD else None

    def _expected(self, T_world_camera: np.ndarray) -> np.ndarray:
        """Return the expected pixels of the tracked corners for a pose."""
        points = self.landmarks.position[self._slots]
        expected, depth = self.camera.pixels_of_points(points, inverse(T_world_camera))
        last, depth_last = self.camera.pixels_of_points(points, inverse(self._T))
        # A corner's residual stays with it.
        moved = self._pixels + expected - last
        usable = (depth > 0) & (depth_last > 0) & self.camera.inside(moved, -50.0)
        return np.where(usable[:, None], moved, self._pixels)

    def _fit(
        self, slots: np.ndarray, pixels: np.ndarray, expected: ExpectedCentre | None
    ) -> _Fitted | None:
        """Return the pose and the corners to track on; None if too few agree.

        All corners take part, each as far as its depth is known. While there are enough
        landmarks, they alone choose the first pose.
        """
        if len(slots) < LEAST_INLIERS:
            return None
        rays, focal = self.camera.rays(pixels), self.camera.focal
        points, solid = self.landmarks.position[slots], self.landmarks.solid[slots]
        basis = solid if solid.sum() >= LEAST_SOLID else np.ones(len(slots), bool)
        found = ransac_pose(points[basis], rays[basis], focal)
        if found is None:
            return None
        steps = self.map.depth_steps(slots)
        use = np.ones(len(slots), bool)
        use[basis] = found[1]
        weights = corner_weights(solid)[use]
        T = refine_pose(found[0], points[use], rays[use], focal, steps[use], weights, expected)
        agree = reprojection_px(T, points, rays, focal, steps) < INLIER_PX
        if (agree & solid).sum() < THIN_INLIERS and expected is not None:
            anew = self._begun_anew(T, slots, pixels, expected)
            if anew is not None:
                return anew
        share = float(agree[basis].mean())
        if share < LEAST_SHARE or not makes_pose(
            pixels[agree], self.camera.width, self.camera.height
        ):
            return None
        return _Fitted(inverse(T), slots[agree], pixels[agree], int((agree & solid).sum()))

    def _begun_anew(
        self,
        T_camera_world: np.ndarray,
        slots: np.ndarray,
        pixels: np.ndarray,
        expected: ExpectedCentre,
    ) -> _Fitted | None:
        """Return the pose that all corners tell, if it contradicts that of the landmarks.

        Corners that do not fit it begin anew in the last keyframe, as candidates.
        """
        key = self.frames.get(self._key_id)
        if key is None:
            return None
        rows, then = self._seen_in(key, slots)
        own, now = slots[rows], pixels[rows]
        first, second = self.camera.rays(then), self.camera.rays(now)
        T_key_world, focal = inverse(key.T_world_camera), self.camera.focal
        towards = transform(T_key_world, expected.centre[None])[0]
        T_now_key = T_camera_world @ key.T_world_camera
        views = contradicting_motion(T_now_key, first, second, focal, towards)
        if views is None:
            return None
        moved = inverse(views.T_second_first)[:3, 3]
        unit = float(np.linalg.norm(towards) / np.linalg.norm(moved))
        of_landmarks = self._unit_of_landmarks(views, own, T_key_world)
        if of_landmarks is not None:
            if abs(np.log(of_landmarks / unit)) > 2.0 * MOTION_SIGMA:
                return None
            unit = of_landmarks
        T_now_key = views.T_second_first.copy()
        T_now_key[:3, 3] *= unit
        T = T_now_key @ T_key_world
        steps = self.map.depth_steps(own)
        error_px = reprojection_px(T, self.landmarks.position[own], second, focal, steps)
        fits = error_px < INLIER_PX
        known = least_errors(T_now_key, first, second)[1] * focal < INLIER_PX
        newest = ~self.landmarks.solid[own] & (self.landmarks.first_frame[own] == key.frame_id)
        use = fits | known
        if not makes_pose(now[use], self.camera.width, self.camera.height):
            return None
        depth = np.where(views.good, views.depth, np.median(views.depth[views.good])) * unit
        anew, deep = known & ~fits & ~newest, known & newest & views.good
        mapping.set_depth(key, self.map, own[deep], then[deep], depth[deep])
        own[anew] = mapping.begin_anew(key, self.map, own[anew], then[anew], depth[anew])
        own, now = own[use], now[use]
        inliers = int(self.landmarks.solid[own].sum())
        return _Fitted(inverse(T), own, now, inliers, True, of_landmarks is None)

    def _unit_of_landmarks(
        self, views: TwoViews, slots: np.ndarray, T_camera_world: np.ndarray
    ) -> float | None:
        """Return the unit of a motion in that of the landmarks; None if they are few.

        :param slots: of the corners of the motion, whose first camera is ``T_camera_world``.
        """
        depth = transform(T_camera_world, self.landmarks.position[slots])[:, 2]
        known = self.landmarks.solid[slots] & views.good & (depth > 0)
        if known.sum() < UNIT_LANDMARKS:
            return None
        return float(np.median(depth[known] / views.depth[known]))

    def _wants_keyframe(self, slots: np.ndarray, pixels: np.ndarray) -> bool:
        solid = int(self.landmarks.solid[slots].sum())
        if solid < KEYFRAME_SHARE * self._key_count:
            return True
        if len(slots) < KEYFRAME_FOLLOWED * self._key_followed:
            return True
        key = self.frames.get(self._key_id)
        if key is None:
            return True
        index, then = self._seen_in(key, slots)
        if len(index) < LEAST_INLIERS:
            return True
        rays_key, rays_now = self.camera.rays(then), self.camera.rays(pixels[index])
        R = inverse(self._T)[:3, :3] @ key.T_world_camera[:3, :3]
        left = project(homogeneous(rays_key) @ R.T)[0] - rays_now
        flow = float(np.median(np.linalg.norm(left, axis=1))) * self.camera.focal
        return bool(flow > KEYFRAME_FLOW * self.camera.width)

    # ---- mapping --------------------------------------------------------------------------

    def _add_keyframe(self, frame: HeldFrame) -> None:
        frame.keyframe = True
        found, loop = mapping.find_again(frame, self.map, self._slots)
        self._slots = np.concatenate([self._slots, found.slots])
        self._pixels = np.concatenate([self._pixels, found.pixels])
        if loop is not None:
            self._backend.offer_loop(loop)
        mapping.add_observations(frame, self.map, self._slots, self._pixels)
        mapping.triangulate_candidates(frame, self.map)
        mapping.drop_dead_candidates(self.map, self._slots)
        self._finish_keyframe(frame)

    def _finish_keyframe(self, frame: HeldFrame) -> None:
        slots, pixels = mapping.add_candidates(
            frame, self.map, self._pixels, self._corner_count, self._distance
        )
        mapping.add_observations(frame, self.map, slots, pixels)
        self._slots = np.concatenate([self._slots, slots])
        self._pixels = np.concatenate([self._pixels, pixels])
        self._key_id = frame.frame_id
        self._key_count = int(self.landmarks.solid[self._slots].sum())
        self._key_followed = len(self._slots)
        self._backend.keyframe_added(frame.frame_id)

    def forget(self, frame_id: int) -> None:
        """Drop a frame, and the landmarks that only it had seen."""
        frame = self.frames.pop(frame_id, None)
        self._relocaliser.forget(frame_id)
        if frame is None or not frame.keyframe:
            return
        alive = frame.seen.slots[frame.seen.alive(self.landmarks)]
        self.landmarks.observation_count[alive] -= 1
        useless = self.landmarks.observation_count[alive] <= 0
        # A candidate lives on the ray of its first observation.
        of_first = self.landmarks.first_frame[alive] == frame_id
        useless |= of_first & ~self.landmarks.solid[alive]
        self.landmarks.remove(alive[useless])
        keep = self.landmarks.used[self._slots]
        self._slots, self._pixels = self._slots[keep], self._pixels[keep]
