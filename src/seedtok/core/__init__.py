"""The lowest layer: errors, images, checkpoint files, the hub, progress, devices."""
