//! What needs a graphics driver: the window drawn, and training through wgpu. Reported as ignored where there is none; CI
//! installs a software driver (mesa-vulkan-drivers).

mod common;

use std::collections::BTreeMap;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use petl_workbench::engine::measure::Counting;
use petl_workbench::engine::{devices, optimise::Optimiser};
use petl_workbench::methods::{bottleneck, lora};
use petl_workbench::session::{Recipe, Settings};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let drivers = devices::list().len() > 1;
    let why = if drivers { "" } else { ", ignored: no graphics driver here (Debian: mesa-vulkan-drivers)" };
    let trial =
        |name: &str, run: fn() -> Result<(), Failed>| Trial::test(format!("{name}{why}"), run).with_ignored_flag(!drivers);
    let mut trials = vec![trial("a_toy_network_trains_through_wgpu_as_on_the_cpu", trains_through_wgpu)];
    #[cfg(feature = "window")]
    trials.push(trial("the_window_is_drawn_in_both_themes", window_is_drawn));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Losses of a few steps on a device.
fn losses(device: &burn::tensor::Device) -> Vec<f32> {
    let stack = vec![common::placed(&lora::CARD, Settings::default()), common::placed(&bottleneck::CARD, Settings::default())];
    let mut model = common::toy_on(&common::session(stack), device);
    let recipe = Recipe { weight_decay: 0.0, ..Recipe::default() };
    let mut optimiser = Optimiser::new(&recipe, BTreeMap::new());
    (0..3).map(|_| common::step(&mut model, &mut optimiser, 1e-2).0).collect()
}

fn trains_through_wgpu() -> Result<(), Failed> {
    let listed = devices::list();
    let gpu = &listed[1];
    let (device, _) = devices::open(&gpu.id).map_err(|e| format!("{e:#}"))?;
    let (on_gpu, on_cpu) = (losses(&device), losses(&burn::tensor::Device::flex()));
    let apart = common::apart(&on_gpu, &on_cpu);
    if apart > 1e-3 || on_gpu[2] >= on_gpu[0] {
        return Err(format!("{}: losses {on_gpu:?}, on the CPU {on_cpu:?}", gpu.name).into());
    }
    let used = device.memory_pool_usage().map_or(0, |u| u.bytes_in_use);
    if used == 0 {
        return Err("the pools' figures are 0 while a model is on the device".into());
    }
    Ok(())
}

#[cfg(feature = "window")]
fn window_is_drawn() -> Result<(), Failed> {
    use eframe::egui::Theme;
    use petl_workbench::app::App;
    use petl_workbench::session::file;
    use petl_workbench::workbench::Workbench;
    let mut means = vec![];
    for theme in [Theme::Dark, Theme::Light] {
        let home = tempfile::tempdir()?;
        let session = file::find("mixed").map_err(|e| format!("{e:#}"))?;
        let bench = Workbench::new(session, home.path().to_owned(), Box::new(|| ())).map_err(|e| format!("{e:#}"))?;
        let builder = egui_kittest::Harness::builder().with_size([1280.0, 800.0]).wgpu();
        let mut harness = builder.build_eframe(move |cc| App::new(&cc.egui_ctx, bench));
        harness.ctx.set_theme(theme);
        harness.run_steps(10);
        let picture = harness.render()?;
        if (picture.width(), picture.height()) != (1280, 800) {
            return Err(format!("drawn at {} x {}", picture.width(), picture.height()).into());
        }
        let bytes = picture.as_raw();
        let colours: std::collections::BTreeSet<&[u8]> = bytes.chunks(4).collect();
        if colours.len() < 50 {
            return Err(format!("{theme:?}: only {} colours: the window is all but empty", colours.len()).into());
        }
        means.push(bytes.iter().map(|b| f64::from(*b)).sum::<f64>() / bytes.len() as f64);
    }
    if means[1] - means[0] < 40.0 {
        return Err(format!("light is hardly lighter than dark: {means:?}").into());
    }
    Ok(())
}
