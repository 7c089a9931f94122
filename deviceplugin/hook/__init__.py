"""libvgpu on the host: put there, checked and cleared away.

The library is HAMi-core's and not ours; it comes out of its published image, and every container
with limits maps the file on the host. So a file, once there, is never written again: a new version
is a new file, and what is no longer used by anybody goes.

`manifest` knows which contents are known, `elf` whether a file is a library at all, `place` opens
the directory without being led astray, `status` says what is there, `usage` who still needs it,
and `install` changes it. Source: hami-nvidia-node.md 1.10, 3.5, 6.2; deploy-observe-webui.md 5.2.
"""
