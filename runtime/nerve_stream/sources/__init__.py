"""Where frames come from: video files, images, folders of images, cameras and streams; always RGB uint8."""
