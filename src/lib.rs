//! petl-workbench: place parameter-efficient methods on a pretrained network, train, compare, take the adapter away.
//!
//! Six words carry the program: a **Session** is what the person wants ([`session`]); a **Command** asks for a change or an
//! action ([`session::command`]); a **Plan** is what the session implies ([`plan`]); **Orders and Events** go to and come from
//! the worker ([`engine`]); the **Board** is what happened ([`board`]); an **Export** is what leaves ([`exports`]). They meet
//! only in [`workbench`] and [`cli`]. ARCHITECTURE.md holds the map and the walls.

pub mod backbones;
pub mod board;
pub mod cli;
pub mod compare;
pub mod datasets;
pub mod downloads;
pub mod engine;
mod errands;
pub mod exports;
pub mod figures;
pub mod hub;
pub mod methods;
pub mod operations;
pub mod plan;
pub mod session;
pub mod suite;
pub mod tasks;
pub mod workbench;

#[cfg(feature = "window")]
pub mod app;
