"""Machines that a bundle is measured on: this one, one reached by ssh, one reached by adb."""
