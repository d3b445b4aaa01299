"""Skeletons: the tables are right, wrong ones are refused, and joints keep their names on the way between them."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from motion_vq.core import ConfigError
from motion_vq.skeletons import (COCO17, H36M17, PANOPTIC19, RULES, SKELETONS, SMPL22, Skeleton, as_skeleton, convert,
                                 other_side, recipe)

ALL = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)


def numbered(skeleton, *batch):
    "Joints that can be told apart: joint k of every frame is at (k, 10 k, 100 k)."
    k = np.arange(skeleton.n_joints, dtype=float)
    return np.broadcast_to(np.stack([k, 10 * k, 100 * k], -1), (*batch, skeleton.n_joints, 3)).copy()


def test_panoptic_joints_are_in_the_order_of_its_files():
    sided = ["shoulder", "elbow", "wrist", "hip", "knee", "ankle"]
    assert PANOPTIC19.joints == ("neck", "nose", "mid_hip", *(f"left_{n}" for n in sided), *(f"right_{n}" for n in sided),
                                 "left_eye", "left_ear", "right_eye", "right_ear")


def test_panoptic_limbs_are_the_papers_in_its_order():
    "The indices, written down by hand: channel c of a heatmap is limb c."
    assert PANOPTIC19.limb_index.tolist() == [
        [1, 3], [1, 9], [3, 4], [9, 10], [4, 5], [10, 11], [3, 6], [9, 12], [6, 7], [12, 13], [7, 8], [13, 14],
        [15, 1], [17, 1], [15, 16], [17, 18], [12, 6]]


def test_coco_limbs_are_those_of_the_keypoint_task():
    "COCO's own list, which counts joints from one."
    coco = [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10], [9, 11],
            [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]]
    assert {frozenset(limb) for limb in (COCO17.limb_index + 1).tolist()} == {frozenset(limb) for limb in coco}
    assert COCO17.joints[5:9] == ("left_shoulder", "right_shoulder", "left_elbow", "right_elbow")


def test_smpl_limbs_are_its_kinematic_tree():
    "SMPL's table of parents, as the model file has it."
    parents = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
    assert SMPL22.limb_index.tolist() == [[parent, k] for k, parent in enumerate(parents) if parent >= 0]


def test_h36m_order():
    "Right leg, left leg, trunk, left arm, right arm: where the literature's evaluation code has its left and right lists."
    left, right = [4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]
    assert [H36M17.joints[k].split("_")[0] for k in left + right] == ["left"] * 6 + ["right"] * 6
    assert H36M17.mirror_index[left].tolist() == right and H36M17.index("head_top") == 10


@ALL
def test_mirror_pairs(skeleton):
    mirror = skeleton.mirror_index
    assert mirror.dtype == np.int64 and sorted(mirror) == list(range(skeleton.n_joints))
    for k, name in enumerate(skeleton.joints):
        assert skeleton.joints[mirror[k]] == other_side(name) and mirror[mirror[k]] == k
        assert (mirror[k] == k) == (not name.startswith(("left_", "right_")))


@ALL
def test_indices_follow_names(skeleton):
    assert [skeleton.index(n) for n in skeleton.joints] == list(range(skeleton.n_joints))
    assert skeleton.limb_index.shape == (len(skeleton.limbs), 2) and skeleton.limb_index.dtype == np.int64
    assert [(skeleton.joints[a], skeleton.joints[b]) for a, b in skeleton.limb_index] == list(skeleton.limbs)


@pytest.mark.parametrize("joints, limbs, word", [
    ([], [], "no joints"),
    (["neck", "head", "neck"], [], "'neck' occurs twice"),
    (["neck"], [("neck", "tail")], "unknown joint 'tail'"),
    (["neck", "left_hand"], [], "'left_hand' has no counterpart 'right_hand'"),
    (["right_hand"], [], "'right_hand' has no counterpart 'left_hand'"),
    (["neck", "head"], [("neck", "neck")], "begins where it ends"),
    (["neck", "head"], [("neck", "head"), ("head", "neck")], "occurs twice"),
    (["neck", "head"], [("neck", "head", "neck")], "two ends"),
])
def test_a_wrong_skeleton_is_refused(joints, limbs, word):
    with pytest.raises(ConfigError, match=word) as error: Skeleton("mine", joints, limbs)
    assert "mine" in str(error.value)


def test_a_skeleton_is_a_value():
    "Lists become tuples, so that a skeleton can be a key, and equal ones are equal."
    one, two = (Skeleton("pair", list("ab"), [list("ab")]) for _ in range(2))
    assert one == two and hash(one) == hash(two) and one.limbs == (("a", "b"),)
    assert Skeleton("dots", ["a"], []).limb_index.shape == (0, 2)
    with pytest.raises(AttributeError): one.name = "other"


def test_unknown_names_say_what_there_is():
    with pytest.raises(ConfigError, match="'left_sholder'.*'left_shoulder'"): PANOPTIC19.index("left_sholder")
    with pytest.raises(ConfigError, match="'coco'.*'coco17'"): as_skeleton("coco")
    assert as_skeleton("coco17") is COCO17 and as_skeleton(SMPL22) is SMPL22


def test_shared_joints_are_copied_and_others_derived():
    clip = numbered(COCO17, 2, 3)
    out = convert(clip, "coco17", "panoptic19")
    assert out.shape == (2, 3, 19, 3)
    for name in set(COCO17.joints) & set(PANOPTIC19.joints):
        assert (out[..., PANOPTIC19.index(name), :] == clip[..., COCO17.index(name), :]).all()
    assert out[0, 0, 0].tolist() == [5.5, 55, 550]    # neck: shoulders 5 and 6
    assert out[0, 0, 2].tolist() == [11.5, 115, 1150] # mid-hip: hips 11 and 12


def test_derived_from_derived():
    "By hand, from coco17: thorax 5.5, mid-hip 11.5, ears 3 and 4."
    out = convert(numbered(COCO17), "coco17", "h36m17")
    x = dict(zip(H36M17.joints, out[:, 0]))
    assert (x["thorax"], x["mid_hip"], x["spine"]) == (5.5, 11.5, 8.5)
    assert x["head_top"] == pytest.approx(1.5 * 3.5 - 0.5 * 5.5)


def test_confidence_is_the_weakest_sources():
    confidence = np.full((4, 17), 0.9)
    confidence[:, COCO17.index("left_hip")] = [0.1, 0.2, 0.3, 1.0]
    _, out = convert(np.zeros((4, 17, 2)), "coco17", "h36m17", confidence)
    assert out.shape == (4, 17)
    for name in ("mid_hip", "spine"): assert out[:, H36M17.index(name)].tolist() == [0.1, 0.2, 0.3, 0.9]
    assert out[:, H36M17.index("left_hip")].tolist() == [0.1, 0.2, 0.3, 1.0]
    assert (out[:, H36M17.index("head_top")] == 0.9).all()


def test_a_missing_joint_spoils_only_what_is_made_of_it():
    clip = numbered(PANOPTIC19)
    clip[PANOPTIC19.index("left_ear")] = np.nan
    out = convert(clip, "panoptic19", "h36m17")
    assert [n for n, x in zip(H36M17.joints, out) if np.isnan(x).any()] == ["head_top"]


@pytest.mark.parametrize("source, target, lost", [
    ("h36m17", "panoptic19", "left_eye, left_ear, right_eye, right_ear"), ("h36m17", "coco17", "left_eye"),
    ("smpl22", "coco17", "nose"), ("smpl22", "h36m17", "nose"), ("coco17", "smpl22", "pelvis"), ("panoptic19", "smpl22", "spine1")])
def test_what_cannot_be_had_is_named(source, target, lost):
    with pytest.raises(ConfigError, match=lost) as error: convert(numbered(SKELETONS[source]), source, target)
    assert source in str(error.value) and target in str(error.value)


def test_wrong_shapes_are_refused():
    with pytest.raises(ConfigError, match=r"\(5, 17, 3\).*panoptic19"): convert(np.zeros((5, 17, 3)), "panoptic19", "coco17")
    with pytest.raises(ConfigError, match="confidence"): convert(np.zeros((5, 19, 3)), "panoptic19", "coco17", np.ones((4, 19)))
    with pytest.raises(ConfigError, match=r"\(19,\)"): convert(np.zeros(19), "panoptic19", "coco17")


@ALL
def test_to_itself_nothing_changes(skeleton):
    clip = np.random.default_rng(0).normal(size=(4, skeleton.n_joints, 3)).astype(np.float32)
    out = convert(clip, skeleton, skeleton)
    assert out.dtype == np.float32 and (out == clip).all() and out is not clip


def test_whole_numbers_become_floats():
    out = convert(np.arange(17 * 2).reshape(17, 2), "coco17", "panoptic19")
    assert out.dtype == np.float64 and out[0].tolist() == [11, 12]


@pytest.mark.parametrize("joint", RULES)
def test_rules_weigh_one(joint):
    assert sum(RULES[joint].values()) == pytest.approx(1)
    assert sum(recipe(joint, "coco17").values()) == pytest.approx(1)
    assert {other_side(n): w for n, w in RULES[joint].items()} == RULES[joint], "left and right weigh differently"


@settings(deadline=None, max_examples=30)
@given(clip=arrays(np.float64, (3, 17, 3), elements=st.floats(-300, 300)), move=st.floats(-500, 500), scale=st.floats(0.1, 10))
def test_conversion_goes_along_with_moving_scaling_and_mirroring(clip, move, scale):
    out = convert(clip, "coco17", "h36m17")
    np.testing.assert_allclose(convert(scale * clip + move, "coco17", "h36m17"), scale * out + move, atol=1e-8)
    mirrored = convert(clip[:, COCO17.mirror_index] * [-1, 1, 1], "coco17", "h36m17")
    np.testing.assert_allclose(mirrored, out[:, H36M17.mirror_index] * [-1, 1, 1], atol=1e-9)


def test_guesses_are_made_on_demand_alone_and_move_with_the_body():
    "A face for those who have none: symmetric, between the shoulders' directions, and the same wherever the body is."
    for name in ("h36m17", "smpl22"):
        body = np.random.default_rng(0).normal(size=(5, SKELETONS[name].n_joints, 3))
        with pytest.raises(ConfigError, match=r"guess=True \(--guess\)"): convert(body, name, "panoptic19")
        face = convert(body, name, "panoptic19", guess=True)
        np.testing.assert_allclose(convert(2 * body + 7, name, "panoptic19", guess=True), 2 * face + 7)
        ear = lambda side: face[:, PANOPTIC19.index(f"{side}_ear")]
        shoulder = lambda side: face[:, PANOPTIC19.index(f"{side}_shoulder")]
        np.testing.assert_allclose(ear("left") - ear("right"), 0.4 * (shoulder("left") - shoulder("right")))
    with pytest.raises(ConfigError, match="without them$"): convert(np.zeros((19, 3)), "panoptic19", "smpl22")


def test_what_cannot_be_had_may_be_left_blank():
    out, confidence = convert(np.ones((4, 19, 3)), "panoptic19", "smpl22", np.ones((4, 19)), blank=True)
    lost = [recipe(name, "panoptic19") is None for name in SMPL22.joints]
    assert 0 < sum(lost) < 22 and np.array_equal(np.isnan(out).all((0, 2)), lost) and np.array_equal((confidence == 0).all(0), lost)
