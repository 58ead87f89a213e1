"""Ground floor: errors, images, checkpoint files, the hub, progress, devices."""
