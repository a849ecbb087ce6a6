//! Every fuzz target, for a fixed number of mutations.

macro_rules! bounded {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                fuzz::run(stringify!($name));
            }
        )*
        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            let all: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(run.as_slice(), all);
        }
    };
}

bounded! { multiboot2 multiboot1 elf bzimage payload command_line xl_cfg xs_wire acpi dmar ivrs }
