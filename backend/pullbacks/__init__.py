"""Pullbacks and studies as tasks: DICOM, films, stacks and folders of images, frame by frame."""
