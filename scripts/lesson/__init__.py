"""What the lesson and the workspace's commands share: images, pictures, parameters, and how much machine there is.

Notebooks call these modules, so what a released notebook calls stays: see tests/test_released_lesson.py.
"""
