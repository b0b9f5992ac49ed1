"""The demonstration, `pixelthink demo`: the tiny policy before and after GRPO with the length reward, as one report."""

from pixelthink_jax.demo.page import demo_page
from pixelthink_jax.demo.record import Demo, Shown
from pixelthink_jax.demo.run import DemoConfig, run_demo

__all__ = ["Demo", "DemoConfig", "Shown", "demo_page", "run_demo"]
