"""YOLO networks saved whole, rebuilt from their pickled structure: what each block computes is written here anew.

Sources: Redmon and Farhadi 2018 (YOLOv3), Wang et al. 2019 (cross stage partial), Han et al. 2019 (Ghost), Li et al.
2020 (distribution focal loss), Ding et al. 2021 (RepVGG), Llerena et al. 2021 (ProbIoU), Wang et al. 2024 (YOLOv9),
Wang et al. 2024 (YOLOv10), Tian et al. 2025 (YOLOv12), and the names and shapes of the parts that a file holds.
"""
