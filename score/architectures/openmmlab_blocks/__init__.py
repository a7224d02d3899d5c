"""Networks of OpenMMLab (mmpretrain, mmsegmentation, mmdetection) that were saved whole."""
