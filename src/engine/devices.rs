//! Devices that training can run on: the CPU, and every GPU that the graphics driver names. A software Vulkan driver is
//! listed but never chosen by itself. Called by the worker.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use anyhow::{Result, bail};
use burn::tensor::{Device, DeviceKind};

use super::Device as Listed;

/// An adapter of the graphics driver.
struct Adapter {
    name: String,
    kind: DeviceKind,
    software: bool,
}

/// The adapters that `ask` finds. A graphics driver is other people's code: one that breaks costs the GPUs and gives words,
/// not the program.
fn guarded(ask: impl FnOnce() -> Vec<Adapter>) -> (Vec<Adapter>, Option<String>) {
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(found) => (found, None),
        Err(panic) => {
            let cause = super::cause(panic.as_ref());
            let words = format!(
                "the graphics driver broke when it was asked for its devices ({cause}), so there is the CPU alone. Mend or remove the driver, then start again"
            );
            (vec![], Some(words))
        }
    }
}

fn adapters() -> Vec<Adapter> {
    // The one graphics interface that Burn would choose here, so that the numbers agree with its own.
    let backends = if cfg!(target_os = "macos") { wgpu::Backends::METAL } else { wgpu::Backends::VULKAN };
    // One for the whole process: with the last of them the driver is unloaded, under the hands of what else uses it.
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    let instance = INSTANCE.get_or_init(|| {
        wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() })
    });
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

/// Every device, the CPU first; and what is wrong with the graphics driver, if something is.
pub fn look() -> (Vec<Listed>, Option<String>) {
    let (found, fault) = guarded(adapters);
    (listed(&found), fault)
}

/// Every device, the CPU first.
pub fn list() -> Vec<Listed> {
    look().0
}

fn listed(found: &[Adapter]) -> Vec<Listed> {
    let cpu = Listed { id: "cpu".into(), name: format!("CPU, {} threads", rayon::current_num_threads()), software: false };
    let gpu = |(n, a): (usize, &Adapter)| Listed { id: format!("gpu {n}"), name: a.name.clone(), software: a.software };
    std::iter::once(cpu).chain(found.iter().enumerate().map(gpu)).collect()
}

/// The device that `id` names, with the words to show for it. `auto` is the first real GPU, else the CPU.
pub fn open(id: &str) -> Result<(Device, String)> {
    // No driver is asked for the CPU.
    if id == "cpu" { Ok(cpu()) } else { choose(id, guarded(adapters)) }
}

fn cpu() -> (Device, String) {
    (Device::flex(), "CPU".to_owned())
}

fn choose(id: &str, (found, fault): (Vec<Adapter>, Option<String>)) -> Result<(Device, String)> {
    let names: Vec<_> = listed(&found).into_iter().map(|d| format!("`{}` ({})", d.id, d.name)).collect();
    if id == "auto" {
        let real = found.into_iter().find(|a| !a.software);
        return Ok(real.map_or_else(cpu, |a| (Device::wgpu(a.kind), a.name)));
    }
    let number = id.strip_prefix("gpu ").and_then(|n| n.trim().parse::<usize>().ok());
    match found.into_iter().enumerate().find(|(n, a)| Some(*n) == number || a.name == id) {
        Some((_, adapter)) => Ok((Device::wgpu(adapter.kind), adapter.name)),
        None => {
            let why = fault.map_or(String::new(), |words| format!("; {words}"));
            bail!(
                "device `{id}` is not on this machine; it has {}{why}. Set `device` to one of these or to `auto`",
                names.join(", ")
            )
        }
    }
}

/// Ends the process with `code` at once, without what libraries have registered for its end: a graphics driver tidies up there while threads of
/// its own still work, and has been seen to free something twice (Mesa 22.3, rarely), which would make a failure of a run that is done and
/// saved.
pub fn leave(code: u8) -> ! {
    let _ = std::io::stdout().flush();
    #[cfg(unix)]
    #[expect(unsafe_code, reason = "a call into the C library that cannot fail and does not return")]
    // SAFETY: nothing is handed over but a number, and nothing of this process runs afterwards.
    unsafe {
        libc::_exit(i32::from(code))
    }
    #[cfg(not(unix))]
    std::process::exit(i32::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_breaks_leaves_the_cpu_and_words() {
        let broken = || guarded(|| panic!("vkEnumerate"));
        let (found, fault) = broken();
        assert_eq!(listed(&found).len(), 1);
        assert!(fault.is_some_and(|words| words.contains("vkEnumerate") && words.contains("CPU alone")));
        assert_eq!(choose("auto", broken()).expect("the CPU").1, "CPU");
        let words = choose("gpu 0", broken()).expect_err("no GPU").to_string();
        assert!(words.contains("`cpu`") && words.contains("vkEnumerate") && words.contains("`auto`"), "{words}");
    }
}
