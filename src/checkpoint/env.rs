//! env.json: the program, machine and command line that a run came from; nothing secret.
#![forbid(unsafe_code)]

/// Whose JPEG decoder's pixels a run sees; those of runs whose env.json names none differ in their last bits.
const JPEG: &str = "libjpeg-turbo";

/// Whether env.json's text tells of a run that saw the pixels that are decoded now.
pub(super) fn decodes_alike(env: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(env).is_ok_and(|env| env["jpeg"] == JPEG)
}

/// The text of env.json.
pub(super) fn describe() -> String {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let command: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let env = serde_json::json!({
        "dynavit": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cpu": cpu_model(),
        "threads": threads,
        "jpeg": JPEG,
        "command": command,
    });
    format!("{env:#}\n")
}

/// The processor's name where the system tells it in /proc/cpuinfo.
fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn tells_what_it_promises() {
        let env: serde_json::Value = serde_json::from_str(&super::describe()).unwrap();
        assert_eq!(env["dynavit"], env!("CARGO_PKG_VERSION"));
        assert_eq!(env["arch"], std::env::consts::ARCH);
        assert!(env["threads"].as_u64().unwrap() >= 1);
        assert!(!env["command"].as_array().unwrap().is_empty());
        assert!(super::decodes_alike(&env.to_string()));
        assert!(!super::decodes_alike("{}") && !super::decodes_alike(""));
    }
}
