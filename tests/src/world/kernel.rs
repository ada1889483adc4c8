//! Maps of a loaded director, beside the agent's way to them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, MapInfo};
use aya::programs::ProgramInfo;
use lb_user::dataplane::director::Director;
use lb_user::dataplane::services::Services;
use lb_user::dataplane::tables::Tables;

use super::{vip, vip4, vip6};

/// No agent takes a table away that a service names; here it is done behind its back.
pub(super) fn take_table_away(director: &mut Director) -> Result<()> {
    let services = directory(director)?;
    let mut tables = Tables::new(Map::from_map_data(data(&director.program()?.info()?, "TABLES")?)?)?;
    for vip in [IpAddr::from(vip4(vip::TABLELESS)), vip6(vip::TABLELESS).into()] {
        let key = lb_common::maps::ServiceKey::new(vip.into(), 80u16.to_be(), 6);
        let table = services.get(&key).context("no such service")?.table;
        tables.remove(table)?;
    }
    Ok(())
}

/// The directory of services as it is in the kernel.
pub fn directory(director: &mut Director) -> Result<Services> {
    let info = director.program()?.info()?;
    let (chains, entries) = (data(&info, "SERVICE_CHAINS")?, data(&info, "SERVICES")?);
    Ok(Services::take(&chains, &entries, entries.info()?.max_entries())?)
}

/// A map of a loaded program.
pub fn map<T: TryFrom<Map, Error = aya::maps::MapError>>(program: &ProgramInfo, name: &str) -> Result<T> {
    Ok(T::try_from(Map::from_map_data(data(program, name)?)?)?)
}

fn data(program: &ProgramInfo, name: &str) -> Result<MapData> {
    for id in program.map_ids()?.unwrap_or_default() {
        if MapInfo::from_id(id)?.name_as_str() == Some(name) {
            return Ok(MapData::from_id(id)?);
        }
    }
    None.with_context(|| format!("no map {name}"))
}
