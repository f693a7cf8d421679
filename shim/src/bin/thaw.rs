//! `thaw`.

fn main() -> std::process::ExitCode {
    thaw_shim::cli::run(std::env::args_os())
}
