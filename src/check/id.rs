//! The names of the checks. They are part of the interface: programs read them, and `docs/check.md` has a section for each.

use serde::{Serialize, Serializer};

macro_rules! ids {
    ($($id:ident = $name:literal),+ $(,)?) => {
        /// In the order in which they are made and shown: what comes later may need what comes before.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Id {
            $($id),+
        }

        impl Id {
            pub const ALL: [Id; [$($name),+].len()] = [$(Id::$id),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Id::$id => $name),+
                }
            }
        }
    };
}

ids! {
    ApiReachable = "api.reachable",
    ApiCredentials = "api.credentials",
    RolloutsGet = "rbac.rollouts.get",
    RolloutsList = "rbac.rollouts.list",
    RolloutsWatch = "rbac.rollouts.watch",
    ServicesGet = "rbac.services.get",
    ServicesList = "rbac.services.list",
    ServicesWatch = "rbac.services.watch",
    SlicesGet = "rbac.endpointslices.get",
    SlicesList = "rbac.endpointslices.list",
    SlicesWatch = "rbac.endpointslices.watch",
    PodsGet = "rbac.pods.get",
    PodsList = "rbac.pods.list",
    PodsWatch = "rbac.pods.watch",
    RolloutServed = "rollout.served",
    RolloutExists = "rollout.exists",
    RolloutReadable = "rollout.readable",
    RolloutSpec = "rollout.spec",
    RolloutStrategy = "rollout.strategy",
    ServicesNamed = "services.named",
    ServicesExist = "services.exist",
    ServicesSelect = "services.select",
    PortFound = "port.found",
    PodsStable = "pods.stable",
    PodsCanary = "pods.canary",
    AnnotationRoutes = "annotation.routes",
    ProxyReachable = "proxy.reachable",
    ProxyFollows = "proxy.follows",
    ProxyHeard = "proxy.heard",
    ProxyGeneration = "proxy.generation",
    ProxyWeight = "proxy.weight",
    MetricsServed = "metrics.served",
    MetricsScraped = "metrics.scraped",
}

impl Id {
    /// The check of a permission.
    pub fn permission(resource: &str, verb: &str) -> Option<Id> {
        let name = format!("rbac.{resource}.{verb}");
        Id::ALL.into_iter().find(|id| id.as_str() == name)
    }

    /// Its section. Anchors are made from headings by leaving out dots.
    pub fn docs(self) -> String {
        format!("docs/check.md#{}", self.as_str().replace('.', ""))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_its_section_in_the_docs_and_every_section_is_a_check() {
        let docs = include_str!("../../docs/check.md");
        let sections: Vec<&str> = docs.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        assert_eq!(sections, Id::ALL.map(Id::as_str));
    }
}
