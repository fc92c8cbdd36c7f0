//! What is needed, in which version, and how each thing is had. The one place with versions of tools.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// What a tool is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// The emulated AWS and the Python programs: seconds.
    Aws,
    /// A real Kubernetes: minutes on the first run.
    Kubernetes,
    /// What `cargo xtask fuzz` needs.
    Fuzzing,
    /// What the agent's image is built on: root only, half a minute.
    Image,
}

/// One tool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// As in the cache folder's name.
    pub(crate) name: &'static str,
    /// As in the cache folder's name.
    pub(crate) version: &'static str,
    /// When it is needed.
    pub(crate) half: Half,
    /// How it is had.
    pub(crate) recipe: Recipe,
}

/// How a tool is had.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Recipe {
    /// A Python environment with everything in the tool's file of requirements.
    PythonEnvironment {
        /// Programs in its `bin` that the manifest names.
        programs: &'static [&'static str],
    },
    /// `go build` of one package of a module of ours that pins it with its `go.sum`.
    GoBuild {
        /// The module's folder, from the workspace root.
        module: &'static str,
        /// What is built.
        package: &'static str,
        /// Given to the linker.
        ldflags: &'static str,
        /// A program of this version on PATH is used as it is.
        on_path: OnPath,
    },
    /// `go install package@version`.
    GoInstall {
        /// What is built.
        package: &'static str,
        /// A program of this version on PATH is used as it is.
        on_path: OnPath,
    },
    /// `cargo install` of the tool's own name and version.
    CargoInstall,
    /// A small Debian in one file, made by debootstrap from the machine's own mirror.
    DebianTree {
        /// Its release's name.
        release: &'static str,
        /// Packages beside the smallest set, with commas.
        packages: &'static str,
    },
    /// The stages that kwok ships in its module, as one file.
    KwokStages {
        /// The module they are in.
        module: &'static str,
    },
}

/// How to ask a program on PATH for its version, and what a good answer contains.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnPath {
    /// Arguments that make it say its version.
    pub(crate) arguments: &'static [&'static str],
    /// Contained in the answer of the pinned version.
    pub(crate) answer: &'static str,
}

/// The version that Kubernetes programs report is set by the linker.
const KUBERNETES_LDFLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 \
     -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37";

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    let arguments: &[&str] = if is_kubectl(name) {
        &["version", "--client"]
    } else {
        &["--version"]
    };
    let on_path = OnPath {
        arguments,
        answer: "v1.37.2",
    };
    let module = "tests/testbed/kubetools";
    let recipe = Recipe::GoBuild {
        module,
        package,
        ldflags: KUBERNETES_LDFLAGS,
        on_path,
    };
    Tool {
        name,
        version: "1.37.2",
        half: Half::Kubernetes,
        recipe,
    }
}

const fn is_kubectl(name: &str) -> bool {
    name.len() == "kubectl".len()
}

/// Everything, in the order in which it is built: what is needed first comes first.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "python-testbed",
        version: "1.5.33",
        half: Half::Aws,
        recipe: Recipe::PythonEnvironment {
            programs: &["python", "aws", "buf"],
        },
    },
    Tool {
        name: "microburst",
        version: "0.10.0",
        half: Half::Aws,
        recipe: Recipe::PythonEnvironment {
            programs: &["microburst"],
        },
    },
    Tool {
        name: "aws-iam-authenticator",
        version: "0.6.13",
        half: Half::Kubernetes,
        recipe: Recipe::GoInstall {
            package: "sigs.k8s.io/aws-iam-authenticator/cmd/aws-iam-authenticator",
            on_path: OnPath {
                arguments: &["version"],
                answer: "0.6.13",
            },
        },
    },
    Tool {
        name: "etcd",
        version: "3.7.3",
        half: Half::Kubernetes,
        recipe: Recipe::GoBuild {
            module: "tests/testbed/etcdtool",
            package: "go.etcd.io/etcd/server/v3",
            ldflags: "-s -w",
            on_path: OnPath {
                arguments: &["--version"],
                answer: "etcd Version: 3.7.3",
            },
        },
    },
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    kubernetes(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Tool {
        name: "kwok",
        version: "0.8.0",
        half: Half::Kubernetes,
        recipe: Recipe::GoInstall {
            package: "sigs.k8s.io/kwok/cmd/kwok",
            on_path: OnPath {
                arguments: &["--version"],
                answer: "v0.8.0",
            },
        },
    },
    Tool {
        name: "helm",
        version: "3.22.0",
        half: Half::Kubernetes,
        recipe: Recipe::GoInstall {
            package: "helm.sh/helm/v3/cmd/helm",
            on_path: OnPath {
                arguments: &["version", "--short"],
                answer: "v3.22.0",
            },
        },
    },
    Tool {
        name: "debian-base",
        version: "12",
        half: Half::Image,
        recipe: Recipe::DebianTree {
            release: "bookworm",
            packages: "ca-certificates",
        },
    },
    Tool {
        name: "kwok-stages",
        version: "0.8.0",
        half: Half::Kubernetes,
        recipe: Recipe::KwokStages {
            module: "sigs.k8s.io/kwok@v0.8.0",
        },
    },
    Tool {
        name: "cargo-fuzz",
        version: "0.13.2",
        half: Half::Fuzzing,
        recipe: Recipe::CargoInstall,
    },
];

impl Tool {
    /// Where it is kept.
    pub(crate) fn folder(&self, cache: &Path) -> PathBuf {
        cache.join("tools").join(format!("{}-{}", self.name, self.version))
    }

    /// Changes whenever the outcome of the recipe could: the marker file in the tool's folder says it.
    pub(crate) fn recipe_hash(&self, root: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!("{} {} {:?}", self.name, self.version, self.recipe));
        let files: Vec<PathBuf> = match self.recipe {
            Recipe::PythonEnvironment { .. } => vec![root.join(self.requirements())],
            Recipe::GoBuild { module, .. } => vec![root.join(module).join("go.mod"), root.join(module).join("go.sum")],
            Recipe::GoInstall { .. } | Recipe::CargoInstall | Recipe::KwokStages { .. } | Recipe::DebianTree { .. } => {
                Vec::new()
            }
        };
        for file in files {
            hash.update(std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// What a Python environment holds.
    pub(crate) fn requirements(&self) -> &'static str {
        match self.name {
            "microburst" => "tests/testbed/microburst.txt",
            _ => "tests/testbed/requirements.txt",
        }
    }

    /// The programs (or files) that the manifest names, each with its place inside the folder.
    pub(crate) fn provides(&self) -> Vec<(String, PathBuf)> {
        match self.recipe {
            Recipe::PythonEnvironment { programs } => programs
                .iter()
                .map(|program| ((*program).to_owned(), Path::new("bin").join(program)))
                .collect(),
            Recipe::GoBuild { .. } | Recipe::GoInstall { .. } | Recipe::CargoInstall => {
                vec![(self.name.to_owned(), Path::new("bin").join(self.name))]
            }
            Recipe::DebianTree { .. } => vec![(self.name.to_owned(), PathBuf::from("base.tar"))],
            Recipe::KwokStages { .. } => vec![(self.name.to_owned(), PathBuf::from("stages.yaml"))],
        }
    }
}
