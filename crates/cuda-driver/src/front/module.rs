//! Modules: PTX in, functions and variables out.
#![forbid(unsafe_code)]

use super::engine::Engine;
use super::launch::Function;
use super::{Id, World};
use crate::codes::{self, Code};
use ptx_vm::ParseError;

/// A module that was not loaded: the code, and what the log of the compiler says.
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) log: String,
}

impl<E: Engine> World<E> {
    /// Compiles `image`, which is PTX without its closing zero.
    pub(crate) fn load(&mut self, image: &[u8]) -> Result<Id, Refused> {
        let context = self.alive().map_err(|code| Refused { code, log: String::new() })?;
        let refuse = |code, log: String| Refused { code, log };
        if image.starts_with(b"\x7fELF") || image.starts_with(&0xba55_ed50_u32.to_le_bytes()) {
            return Err(refuse(codes::NO_BINARY_FOR_GPU, "the virtual GPU takes PTX, not compiled code".into()));
        }
        let ptx = std::str::from_utf8(image)
            .map_err(|error| refuse(codes::INVALID_PTX, format!("the PTX is not text: {error}")))?;
        match self.engine.load(&file_name(ptx), ptx) {
            Ok(module) => {
                let id = self.new_id();
                self.modules.insert(id, (context, module));
                Ok(id)
            }
            Err(ParseError { file, line, message }) => {
                let log = format!("{file}:{line}: {message}");
                self.note = Some(log.clone());
                Err(refuse(codes::INVALID_PTX, log))
            }
        }
    }

    pub(crate) fn unload(&mut self, module: Id) -> Result<(), Code> {
        self.alive()?;
        self.modules.remove(&module).ok_or(codes::INVALID_HANDLE)?;
        self.functions.retain(|_, function| function.module != module);
        Ok(())
    }

    pub(crate) fn function(&mut self, module: Id, name: &str) -> Result<Id, Code> {
        self.alive()?;
        let (context, loaded) = self.modules.get(&module).ok_or(codes::INVALID_HANDLE)?;
        let known = self.functions.iter().find(|(_, f)| f.module == module && f.is(name));
        if let Some((id, _)) = known {
            return Ok(*id);
        }
        let Some(kernel) = E::kernel(loaded, name) else {
            return self.fail(codes::NOT_FOUND, format!("the module has no kernel `{name}`"));
        };
        let function = Function::new(*context, module, kernel, &self.limits);
        let id = self.new_id();
        self.functions.insert(id, function);
        Ok(id)
    }

    pub(crate) fn global(&mut self, module: Id, name: &str) -> Result<(u64, u64), Code> {
        self.alive()?;
        let (_, loaded) = self.modules.get(&module).ok_or(codes::INVALID_HANDLE)?;
        match E::global(loaded, name) {
            Some(found) => Ok(found),
            None => self.fail(codes::NOT_FOUND, format!("the module has no variable `{name}`")),
        }
    }
}

/// What to call a module in messages: its first source file and its target, as `ptx/gelu.cu` for sm_80 gives
/// `gelu.sm80.ptx`.
fn file_name(ptx: &str) -> String {
    let find = |directive| ptx.lines().find_map(|line| line.trim_start().strip_prefix(directive));
    let path = find(".file").and_then(|rest| rest.split('"').nth(1)).unwrap_or("module");
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split('.').next().unwrap_or(name);
    let target = find(".target").and_then(|rest| rest.split([',', ' ', '\t']).find(|word| word.starts_with("sm_")));
    format!("{stem}{}.ptx", target.map_or(String::new(), |target| format!(".{}", target.replace('_', ""))))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_module_is_called_after_its_source() {
        let text = "// x\n.version 7.8\n.target sm_80, debug\n\t.file\t1 \"ptx/gelu.cu\"\n.file 2 \"ptx/common.cuh\"\n";
        assert_eq!(super::file_name(text), "gelu.sm80.ptx");
        assert_eq!(super::file_name(".version 7.8"), "module.ptx");
    }
}
