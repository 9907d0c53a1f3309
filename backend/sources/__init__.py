"""What premask trains on besides data folders: exports of annotation tools. Start reading at source.py."""
