//! Devices that training can run on: the CPU, and every GPU that the graphics driver names. A software Vulkan driver is
//! listed but never chosen by itself. Called by the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, bail};
use burn::tensor::{Device, DeviceKind};

use super::Device as Listed;

/// An adapter of the graphics driver.
struct Adapter {
    name: String,
    kind: DeviceKind,
    software: bool,
}

fn adapters() -> Vec<Adapter> {
    // The one graphics interface that Burn would choose here, so that the numbers agree with its own.
    let backends = if cfg!(target_os = "macos") { wgpu::Backends::METAL } else { wgpu::Backends::VULKAN };
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() });
    let (mut discrete, mut integrated, mut shared) = (0, 0, 0);
    let next = |count: &mut usize| {
        *count += 1;
        *count - 1
    };
    let mut found = Vec::new();
    for adapter in pollster::block_on(instance.enumerate_adapters(backends)) {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu(next(&mut discrete)),
            wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu(next(&mut integrated)),
            wgpu::DeviceType::VirtualGpu => DeviceKind::VirtualGpu(next(&mut shared)),
            wgpu::DeviceType::Cpu => DeviceKind::Cpu,
            wgpu::DeviceType::Other => continue,
        };
        let software = info.device_type == wgpu::DeviceType::Cpu;
        found.push(Adapter { name: info.name, kind, software });
    }
    found.sort_by_key(|a| match a.kind {
        DeviceKind::DiscreteGpu(_) => 0,
        DeviceKind::IntegratedGpu(_) => 1,
        DeviceKind::VirtualGpu(_) => 2,
        _ => 3,
    });
    found
}

/// Every device, the CPU first.
pub fn list() -> Vec<Listed> {
    ask().0
}

/// Every device, and words when the graphics driver could not be asked: then the CPU alone.
pub fn ask() -> (Vec<Listed>, Option<String>) {
    ask_of(adapters)
}

fn ask_of(adapters: impl FnOnce() -> Vec<Adapter>) -> (Vec<Listed>, Option<String>) {
    let cpu = Listed { id: "cpu".into(), name: format!("CPU, {} threads", rayon::current_num_threads()), software: false };
    let mut list = vec![cpu];
    // A driver is foreign code; its fault must not take the worker along.
    let Ok(found) = catch_unwind(AssertUnwindSafe(adapters)) else {
        let words = "the graphics driver failed when it was asked for its devices, so training runs on the CPU. Install or update the driver to train on a GPU";
        return (list, Some(words.to_owned()));
    };
    for (n, adapter) in found.into_iter().enumerate() {
        list.push(Listed { id: format!("gpu {n}"), name: adapter.name, software: adapter.software });
    }
    (list, None)
}

/// The device that `id` names, with the words to show for it. `auto` is the first real GPU, else the CPU.
pub fn open(id: &str) -> Result<(Device, String)> {
    let cpu = || (Device::flex(), "CPU".to_owned());
    if id == "cpu" {
        return Ok(cpu());
    }
    let found = catch_unwind(adapters).unwrap_or_default(); // a failing driver has no devices
    if id == "auto" {
        let real = found.into_iter().find(|a| !a.software);
        return Ok(real.map_or_else(cpu, |a| (Device::wgpu(a.kind), a.name)));
    }
    let number = id.strip_prefix("gpu ").and_then(|n| n.trim().parse::<usize>().ok());
    let names: Vec<_> = list().into_iter().map(|d| format!("`{}` ({})", d.id, d.name)).collect();
    match found.into_iter().enumerate().find(|(n, a)| Some(*n) == number || a.name == id) {
        Some((_, adapter)) => Ok((Device::wgpu(adapter.kind), adapter.name)),
        None => {
            bail!("device `{id}` is not on this machine; it has {}. Set `device` to one of these or to `auto`", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_fails_leaves_the_cpu_and_words() {
        let (devices, words) = ask_of(|| panic!("the driver's own fault"));
        assert_eq!(devices.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["cpu"]);
        assert!(words.is_some_and(|words| words.contains("graphics driver")));
        let (devices, words) = ask_of(|| vec![Adapter { name: "A".into(), kind: DeviceKind::DiscreteGpu(0), software: false }]);
        assert_eq!((devices.len(), words), (2, None));
    }
}
