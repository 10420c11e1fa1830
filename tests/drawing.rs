//! What needs a graphics driver: the window drawn, the program's own window on a display, and training through wgpu. Reported as
//! ignored where there is none; CI installs a software driver and a virtual display (mesa-vulkan-drivers, xvfb).

mod common;

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use libtest_mimic::{Arguments, Failed, Trial};
use petl_workbench::engine::kernels::packed::Packed;
use petl_workbench::engine::kernels::{self, Mask};
use petl_workbench::engine::measure::Counting;
use petl_workbench::engine::{devices, optimise::Optimiser};
use petl_workbench::methods::{bottleneck, lora};
use petl_workbench::session::{Recipe, Settings};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let drivers = devices::list().len() > 1;
    let why = if drivers { "" } else { ", ignored: no graphics driver here (Debian: mesa-vulkan-drivers)" };
    let trial =
        |name: &str, run: fn() -> Result<(), Failed>| Trial::test(format!("{name}{why}"), run).with_ignored_flag(!drivers);
    let mut trials = vec![trial("a_toy_network_trains_through_wgpu_as_on_the_cpu", trains_through_wgpu)];
    trials.push(trial("packed_products_and_what_decoders_need_are_the_same_through_wgpu", packed_through_wgpu));
    #[cfg(feature = "window")]
    trials.push(trial("the_window_is_drawn_in_both_themes", window_is_drawn));
    #[cfg(all(feature = "window", target_os = "linux"))]
    trials.push({
        let name = "the_program_opens_its_window_on_a_display";
        let display = std::process::Command::new("Xvfb").arg("-help").output().is_ok();
        match display {
            true => trial(name, opened::program_opens_its_window),
            false => {
                let name = format!("{name}, ignored: no virtual display here (Debian: xvfb)");
                Trial::test(name, || Ok(())).with_ignored_flag(true)
            }
        }
    });
    devices::leave(u8::from(libtest_mimic::run(&Arguments::from_args(), trials).has_failed()))
}

/// Losses of a few steps on a device.
fn losses(device: &burn::tensor::Device) -> Vec<f32> {
    let stack = vec![common::placed(&lora::CARD, Settings::default()), common::placed(&bottleneck::CARD, Settings::default())];
    let mut model = common::toy_on(&common::session(stack), device);
    let recipe = Recipe { weight_decay: 0.0, ..Recipe::default() };
    let mut optimiser = Optimiser::new(&recipe, BTreeMap::new());
    (0..3).map(|_| common::step(&mut model, &mut optimiser, 1e-2).0).collect()
}

/// A packed product, rotary positions and attention in order, with the gradient of what enters.
fn packed_through_wgpu() -> Result<(), Failed> {
    let of = |device: &Device| {
        let words: Vec<i32> = (0..32 * 64 * 4 / 32).map(|n: i32| n.wrapping_mul(0x9e37_79b9_u32 as i32)).collect();
        let blocks = |from: f32| (0..32 * 64 / 32).map(|n| from + n as f32 * 1e-3).collect::<Vec<f32>>();
        let packed = Packed::new(words, blocks(0.01), blocks(-0.08), [32, 64], 4, device);
        let values = |count: usize, phase: f32| common::numbers(count, phase);
        let x = Tensor::<3>::from_data(TensorData::new(values(2 * 5 * 64, 0.0), [2, 5, 64]), device).autodiff().require_grad();
        let angles = Tensor::<2>::from_data(TensorData::new(values(5 * 4, 1.0), [5, 4]), device);
        let q = kernels::rotate(packed.product(x.clone()), &angles); // [2, 5, 32]
        let y = kernels::attention(q.clone(), q.clone(), q, 4, Mask { seen: None, causal: Some(5) });
        let gamma = Tensor::<1>::from_data(TensorData::new(values(32, 2.0), [32]), device);
        let y = kernels::rms_norm(y, gamma, 1e-6);
        let gradients = (y.clone() * y.clone()).sum().backward();
        let gradient = x.grad(&gradients).expect("a gradient");
        [y.inner().into_data(), gradient.into_data()].map(|data| data.try_to_vec::<f32>().expect("f32"))
    };
    let listed = devices::list();
    let (device, _) = devices::open(&listed[1].id).map_err(|e| format!("{e:#}"))?;
    for (what, (gpu, cpu)) in ["value", "gradient"].iter().zip(of(&device).iter().zip(of(&Device::flex()))) {
        let scale = cpu.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        let apart = common::apart(gpu, &cpu) / scale;
        if apart > 1e-4 || scale < 1e-3 {
            return Err(format!("{what}: {apart:e} of {scale}").into());
        }
    }
    Ok(())
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

/// The built program on a virtual display, as a person starts it: `petl`, without arguments.
#[cfg(all(feature = "window", target_os = "linux"))]
mod opened {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use libtest_mimic::Failed;

    /// Ended with the test, however that ends.
    struct Ends(Child);

    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// How many colours the display shows. Its picture is a file (X's own form, XWD): a header that names its length in the
    /// first word and the number of colour cells, of 12 bytes each, in the 20th; then the pixels.
    fn colours(display: &Path) -> Result<usize, Failed> {
        let bytes = std::fs::read(display)?;
        let word = |n: usize| bytes.get(4 * n..4 * n + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
        let pixels = bytes.get(word(0) + 12 * word(19)..).unwrap_or_default();
        Ok(pixels.chunks_exact(4).collect::<BTreeSet<_>>().len())
    }

    pub fn program_opens_its_window() -> Result<(), Failed> {
        let folder = tempfile::tempdir()?;
        let pixels = folder.path().join("Xvfb_screen0");
        // It chooses a free number itself and prints it when it can be used.
        let mut display = Command::new("Xvfb");
        display.args(["-displayfd", "1", "-screen", "0", "1500x940x24", "-nolisten", "tcp", "-fbdir"]).arg(folder.path());
        let mut display = Ends(display.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        let mut number = String::new();
        BufReader::new(display.0.stdout.take().ok_or("no output")?).read_line(&mut number)?;
        let number = format!(":{}", number.trim());
        if number == ":" {
            return Err("Xvfb gives no display".into());
        }
        let before = colours(&pixels)?;

        let said = folder.path().join("said");
        let mut program = Command::new(env!("CARGO_BIN_EXE_petl"));
        program.env("DISPLAY", &number).env_remove("WAYLAND_DISPLAY").env("PETL_HOME", folder.path().join("home"));
        let mut program = Ends(program.stderr(std::fs::File::create(&said)?).stdout(Stdio::null()).spawn()?);
        let words = || std::fs::read_to_string(&said).unwrap_or_default();
        let clock = Instant::now();
        let mut shown = 0;
        // Until the window has been there for three seconds.
        let mut since: Option<Instant> = None;
        while since.is_none_or(|since| since.elapsed() < Duration::from_secs(3)) {
            if let Some(status) = program.0.try_wait()? {
                return Err(format!("it ended at once ({status}): {}", words()).into());
            }
            if clock.elapsed() > Duration::from_secs(90) {
                return Err(format!("no window after 90 s: {shown} colours on the display, {before} before; {}", words()).into());
            }
            shown = colours(&pixels)?;
            since = if shown > before + 100 { since.or(Some(Instant::now())) } else { None };
            std::thread::sleep(Duration::from_millis(200));
        }
        if words().contains("panicked") {
            return Err(words().into());
        }
        Ok(())
    }
}
