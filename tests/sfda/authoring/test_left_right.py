"""Left and right joints by their names, however they are spelled."""

import pytest

from sfda.authoring.left_right import pairs_by_name, pairs_text


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"), ("Left Eye", "Right Eye"), ("LEFT_EYE", "RIGHT_EYE"),
        ("l_eye", "r_eye"), ("L_Eye", "R_Eye"), ("LEye", "REye"), ("lEye", "rEye"),
        ("leftEye", "rightEye"), ("LeftEye", "RightEye"), ("eye_l", "eye_r"), ("eye.L", "eye.R"),
        ("eyeL", "eyeR"), ("EyeLeft", "EyeRight"), ("eye_left", "eye_right"), ("L-Eye", "R-Eye"),
        ("lefteye", "righteye"), ("eyeleft", "eyeright"), ("left-eye", "right-eye"),
        ("Eye (left)", "Eye (right)"), ("Eye (L)", "Eye (R)"), ("LEYE", "REYE"), ("lsho", "rsho"),
        ("hand_l_1", "hand_r_1"), ("L5", "R5"), ("LShoulder", "RShoulder"), ("l.eye", "r.eye"),
        ("upper_left_arm", "upper_right_arm"), ("left eye ", "right eye "), ("lt_eye", "rt_eye"),
        ("left_eye", "Right Eye"), ("mixamorig:LeftArm", "mixamorig:RightArm"),
    ],
)  # fmt: skip
def test_usual_spellings_make_pairs(left, right):
    joints = ["nose", right, "chin", left, "ear"]
    assert pairs_by_name(joints) == ((left, right),)
    assert f"{left} / {right}" in pairs_text(pairs_by_name(joints))


@pytest.mark.parametrize(
    "joints",
    [
        ["nose", "chin", "neck"],
        ["lip", "rear", "light", "right"],  # of these no two differ in the side alone
        ["left_eye", "right_ear"],
        ["L1", "L2", "L3"],
        ["left_eye", "left eye", "right_eye"],  # which of them?
        ["left_right", "right_left"],
    ],
)
def test_what_is_no_pair_stays_alone_and_is_told(joints):
    assert pairs_by_name(joints) == ()
    assert "no pair" in pairs_text(pairs_by_name(joints))


def test_many_pairs_stand_in_the_order_of_the_joints():
    joints = ["REye", "LEye", "Nose", "LHip", "RHip", "l_knee", "r_knee"]
    assert pairs_by_name(joints) == (("LEye", "REye"), ("LHip", "RHip"), ("l_knee", "r_knee"))
