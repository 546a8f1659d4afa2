"""Meaning and unit of a table's columns, by the words in its header."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_WORDS = {
    "time": (
        "time t timestamp timestamps seconds sec secs utc utctime unixtime unix epoch datetime date_time date_and_time "
        "gps_time gpstime time_utc utc_time timestamp_utc logmonotime t_rel elapsed elapsed_time time_of_fix rostime "
        "stamp sensor_time timestamp_gps sow tow itow time_of_week seconds_of_week week_seconds"
    ),
    "frame": "frame frame_index frame_id frame_number frame_no frameindex image_index index idx",
    "image": "image filename file file_name image_name imagename name photo picture frame_name",
    "week": "week gps_week gpsweek week_number week_no wn",
    "latitude_letter": "ns n_s lat_dir lat_direction latitude_direction lat_ref latitude_ref lat_hemisphere lat_ns",
    "longitude_letter": "ew e_w lon_dir lon_direction longitude_direction lon_ref longitude_ref lon_hemisphere lon_ew",
    "latitude": (
        "latitude lat lat_dd gps_lat gps_latitude latitude_wgs84 wgs84_lat y_lat lat_wgs84 latitud breite breitengrad"
    ),
    "longitude": (
        "longitude lon lng long lon_dd lng_dd gps_lon gps_lng gps_long gps_longitude longitude_wgs84 wgs84_lon x_lon "
        "longitud lange langengrad laenge laengengrad"
    ),
    "altitude": (
        "altitude alt ele elev elevation height h ellipsoidal_height height_ellipsoid ellipsoid_height hae gps_alt "
        "gps_altitude alt_hae altitude_hae up_height"
    ),
    "sea_altitude": "alt_msl altitude_msl msl height_msl orthometric_height msl_altitude amsl alt_amsl",
    "separation": "geoid_separation geoidal_separation undulation geoid separation geoid_height geoid_sep",
    "accuracy": (
        "accuracy acc hacc h_acc haccuracy horizontal_accuracy accuracy_horizontal accuracy_h pos_accuracy sigma std "
        "sigma_h std_h hsigma stddev gps_accuracy eph position_accuracy horizontal_std hstd h_std cep"
    ),
    "north_std": "lat_std std_lat latitude_std sdn sd_n north_std sigma_n lat_sigma",
    "east_std": "lon_std std_lon longitude_std sde sd_e east_std sigma_e lon_sigma",
    "vertical_accuracy": (
        "vacc v_acc vaccuracy vertical_accuracy accuracy_vertical accuracy_v alt_std std_alt altitude_std sdu sd_u "
        "up_std sigma_u sigma_v epv vertical_std vstd v_std height_std alt_sigma altitude_accuracy"
    ),
    "hdop": "hdop h_dop dop pdop gps_dop",
    "fix": "fix fix_type fixtype fix_quality gps_quality quality gps_fix mode fix_mode",
    "speed": (
        "speed velocity vel ground_speed groundspeed speed_over_ground sog gps_speed vehicle_speed wheel_speed "
        "car_speed can_speed speed_2d speed2d v vehiclespeed wheelspeed ego_speed"
    ),
    "x": "x ecef_x x_ecef easting east utm_x x_utm utm_easting e utm_e x_coordinate coord_x",
    "y": "y ecef_y y_ecef northing north utm_y y_utm utm_northing n utm_n y_coordinate coord_y",
    "z": "z ecef_z z_ecef up utm_z z_coordinate coord_z",
}
_MEANING = {word: meaning for meaning, words in _WORDS.items() for word in words.split()}
_CAR = re.compile("wheel|vehicle|car|can|obd|ego|odo")
_OF_WEEK = re.compile("week|tow|sow")
_DATE = frozenset(("date", "day", "utc_date", "date_utc"))

# Units that stand behind names, as factors to seconds, metres, degrees, metres per second.
_UNITS = {
    "speed": {
        "m_s": 1.0,
        "mps": 1.0,
        "ms": 1.0,
        "m_sec": 1.0,
        "km_h": 1 / 3.6,
        "kmh": 1 / 3.6,
        "kph": 1 / 3.6,
        "kmph": 1 / 3.6,
        "mph": 0.44704,
        "mi_h": 0.44704,
        "kn": 0.514444,
        "kt": 0.514444,
        "kts": 0.514444,
        "knots": 0.514444,
        "knot": 0.514444,
    },
    "time": {
        "s": 1.0,
        "sec": 1.0,
        "secs": 1.0,
        "seconds": 1.0,
        "ms": 1e-3,
        "msec": 1e-3,
        "millis": 1e-3,
        "milliseconds": 1e-3,
        "us": 1e-6,
        "usec": 1e-6,
        "microseconds": 1e-6,
        "ns": 1e-9,
        "nsec": 1e-9,
        "nanos": 1e-9,
        "nanoseconds": 1e-9,
        "utc": 0.0,
        "unix": 0.0,
    },
    "length": {"m": 1.0, "metre": 1.0, "metres": 1.0, "meter": 1.0, "meters": 1.0, "ft": 0.3048, "feet": 0.3048},
    "angle": {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "dd": 1.0, "rad": 57.29577951308232, "radians": 57.2957795},
}
_KIND = {
    "speed": "speed",
    "time": "time",
    "latitude": "angle",
    "longitude": "angle",
    **dict.fromkeys(
        ("altitude", "sea_altitude", "separation", "accuracy", "vertical_accuracy", "north_std", "east_std"), "length"
    ),
    **dict.fromkeys("xyz", "length"),
}


@dataclass(frozen=True)
class Column:
    """meaning: a key of this module's words; unit: factor to SI units or degrees, None if the header names no unit;
    gps_time: times are GPS times; of_week: times count from the start of a GPS week; of_car: a speed is from wheels or
    the car's bus."""

    meaning: str
    unit: float | None = None
    gps_time: bool = False
    of_week: bool = False
    of_car: bool = False


def column_of(header: str) -> Column | None:
    """The meaning of a column's name, None if unknown. Case, accents, spaces, dots and brackets are ignored."""
    header = "".join(c for c in unicodedata.normalize("NFKD", header) if not unicodedata.combining(c))
    plain = re.sub(r"([a-z])([A-Z])", r"\1_\2", header.strip().lstrip("\ufeff#").strip())
    plain = re.sub(r"[^a-z0-9]+", "_", plain.lower().replace("²", "2")).strip("_")
    plain = re.sub(r"^(gps|gnss|ins|position|location|pose|fix|rtk|novatel|can|obd)_(?=.)", "", plain) or plain
    if plain in _DATE:
        return Column("date")
    for word in dict.fromkeys((plain, plain.replace("_", ""))):
        if word in _MEANING:
            meaning = _MEANING[word]
            unit = _UNITS["time"].get(word) if meaning == "time" else None
            return _column(meaning, unit, header)
    parts = plain.split("_")
    for cut in range(len(parts) - 1, 0, -1):
        name, unit_word = "_".join(parts[:cut]), "_".join(parts[cut:])
        meaning = _MEANING.get(name) or _MEANING.get(name.replace("_", "")) or ""
        factor = _UNITS.get(_KIND.get(meaning, ""), {}).get(unit_word)
        if factor is not None:
            return _column(meaning, factor or None, header)
    return None


def _column(meaning: str, unit: float | None, header: str) -> Column:
    words = header.lower()
    of_car = meaning == "speed" and _CAR.search(words) is not None
    of_week = meaning == "time" and _OF_WEEK.search(words) is not None
    if of_week and "itow" in words and unit is None:
        unit = 1e-3  # u-blox counts it in milliseconds
    return Column(meaning, unit, meaning == "time" and "gps" in words, of_week, of_car)
