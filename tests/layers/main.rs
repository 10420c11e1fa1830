//! Outputs, gradients and merged weights against other implementations (PEFT, AdapterHub's adapters): one frozen layer with one
//! method at random values. The numbers and the Python that made them are in `tests/fixtures/layers`.

mod adalora;
mod adapters;
mod fixture;
mod low_rank;
mod masks;
mod products;
mod rotations;
mod scales;
