"""Positions as files hold them: the real ones of shared/, and what other receivers and loggers write."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from pipeline.georeference.cell_values import angle_of
from pipeline.georeference.csv_table import read_csv
from pipeline.georeference.gopro import read_gopro
from pipeline.georeference.gpx import read_gpx
from pipeline.georeference.nmea import read_nmea
from pipeline.georeference.photographs import read_photographs
from pipeline.georeference.plausible import checked
from pipeline.georeference.positions import NoPositionsError, fixes_of
from pipeline.georeference.read import read_file
from pipeline.georeference.video_telemetry import read_telemetry, telemetry_kind
from tests.georeference.mp4 import box, mp4_of


@pytest.fixture(scope="session")
def telemetry(shared):
    return shared / "data" / "telemetry"


def test_every_fix_of_a_gopro_clip_is_read(telemetry):
    """Numbers as gpmf-parser's and exiftool's dumps of the same clip have them."""
    read = read_telemetry(str(telemetry / "max-heromode.mp4"))
    assert len(read.fixes) == 191 and read.clock == "drive" and not read.sea_level
    np.testing.assert_allclose([read.fixes.latitude[0], read.fixes.longitude[0]], [33.12677, -117.3273436], atol=1e-9)
    np.testing.assert_allclose(
        [read.fixes.latitude[-1], read.fixes.longitude[-1]], [33.1266674, -117.3272734], atol=1e-9
    )
    assert read.fixes.altitude[0] == pytest.approx(-22.959)
    assert read.fixes.accuracy[0] == pytest.approx(3 * 1.54)
    assert read.speed is not None and read.speed.speed_m_s[0] == pytest.approx(1.046)
    assert (np.diff(read.fixes.time_s) > 0).all() and read.fixes.time_s[-1] < 10.6


def test_the_positions_of_a_drone_are_read_from_its_own_stream(telemetry):
    read = read_telemetry(str(telemetry / "karma.mp4"))
    assert read.source.startswith("GoPro GLPI") and len(read.fixes) == 47 and read.sea_level
    assert read.fixes.latitude[0] == pytest.approx(33.1253688) and read.fixes.longitude[0] == pytest.approx(
        -117.3310668
    )


def test_photographs_tell_position_height_and_precision(telemetry):
    names = ["DSC00001.JPG", "berlin01.jpg", "berlin02.jpg", "berlin03.jpg"]
    read = read_photographs([str(telemetry / name) for name in names])
    assert read.clock == "frame" and read.fixes.time_s.tolist() == [0, 1, 2, 3]
    assert read.fixes.latitude[0] == pytest.approx(45 + 31 / 60 + 0.851 / 3600)
    assert read.fixes.longitude[0] == pytest.approx(-(122 + 34 / 60 + 21.954 / 3600))
    assert read.fixes.altitude.tolist() == [70.3, 27, 30, 39]
    assert read.fixes.accuracy.tolist() == pytest.approx([5.34, 15, 15, 15])


def test_every_point_of_a_gpx_track_is_read(telemetry):
    read = read_file(str(telemetry / "sf_30km_h.gpx"))
    assert len(read.fixes) == 49 and read.clock == "utc"
    assert read.fixes.time_s[0] == datetime(2025, 3, 14, 7, tzinfo=UTC).timestamp()
    assert (read.fixes.latitude[0], read.fixes.longitude[0], read.fixes.altitude[0]) == (37.793585, -122.461396, 94.75)
    assert read.fixes.latitude[-1] == 37.79885


@pytest.mark.parametrize(("name", "fixes", "speeds"), [("ublox", 579, 579), ("qcom", 30, 30), ("speed", 0, 1244)])
def test_a_real_minute_of_driving_is_read_with_its_speeds(shared, name, fixes, speeds):
    read = read_file(str(shared / "data" / "comma2k19" / f"{name}.csv"))
    assert read.clock == "drive" and len(read.fixes) == fixes and len(read.speed or ()) == speeds


@pytest.mark.parametrize(
    ("header", "of_receiver"),
    [("speed", True), ("gps_speed_kmh", True), ("wheel_speed", False), ("can_speed [m/s]", False)],
)
def test_a_header_tells_whether_a_speed_is_the_receivers_or_the_cars(header, of_receiver):
    rows = "".join(f"{n},49.{n:04d},8,5\n" for n in range(5))
    assert read_csv(f"time,lat,lon,{header}\n{rows}".encode(), "gps.csv").speed.of_receiver == of_receiver


HEADERS = {
    "plain": ("time,latitude,longitude,altitude", "{t},{lat},{lon},{alt}"),
    "units": ("Timestamp (ms),Lat [deg],Lon [deg],Alt [ft],Speed (km/h)", "{ms},{lat},{lon},{feet},36.0"),
    "semicolons and commas": ("Zeit;time;Latitude;Longitude;Height", "x;{t};{latc};{lonc};{alt}"),
    "camel case": ("timeUtc,gpsLatitude,gpsLongitude,gpsAltitude,hAcc", "{iso},{lat},{lon},{alt},2.5"),
    "date and time": ("Date\tTime\tLat\tLng\tElevation\tHDOP", "2026-05-04\t{clock}\t{lat}\t{lon}\t{alt}\t0.8"),
    "nanoseconds": ("# timestamp_ns, lat_deg, lon_deg, alt_m, std_n, std_e", "{ns}, {lat}, {lon}, {alt}, 1, 1"),
    "hemispheres": ("utc,lat,lon,alt_msl,geoid_separation", "{iso},{lat}N,{lon}E,{less},40"),
    "degrees, minutes and seconds": ("time;lat;lon;alt", "{t};{latdms};{londms};{alt}"),
    "letters in columns of their own": ("utc,lat,N/S,lon,E/W,alt", "{iso},{lat},n,{lon},E,{alt}"),
    "GPS weeks": ("GPS week,GPS tow (s),lat,lon,alt", "{week},{tow},{lat},{lon},{alt}"),
    "radians": ("time,lat_rad,lon_rad,alt", "{t},{latr},{lonr},{alt}"),
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_tables_of_any_usual_encoding_are_read(tmp_path, encoding):
    path = tmp_path / "gps.csv"
    path.write_bytes("time;Breite;Länge\r\n0;49,5°;8,25°\r\n1;49,5001°;8,2502°\r\n".encode(encoding))
    assert read_file(str(path)).fixes.longitude.tolist() == [8.25, 8.2502]


@pytest.mark.parametrize(
    ("text", "degrees"),
    [
        ("49°30'15\"N", 49 + 30.25 / 60),
        ("S 49 30.25'", -(49 + 30.25 / 60)),
        ("-49:30:15", -(49 + 30.25 / 60)),
        ("49d30m15s", 49 + 30.25 / 60),
        ("122,5 W", -122.5),
        ("-8.4", -8.4),
        ("49 61 0", np.nan),
        ("49.5 30", np.nan),
        ("here", np.nan),
    ],
)
def test_angles_are_read_as_people_write_them(text, degrees):
    assert angle_of(text) == pytest.approx(degrees, abs=1e-9, nan_ok=True)


def test_the_letter_of_a_hemisphere_in_a_column_of_its_own_is_a_sign():
    read = read_csv(b"t,lat,lat_ref,lon,lon_ref\n0,33.9,S,151.2,E\n1,-33.9,S,70.6,W\n", "gps.csv")
    assert read.fixes.latitude.tolist() == [-33.9, -33.9] and read.fixes.longitude.tolist() == [151.2, -70.6]


@pytest.mark.parametrize("kind", HEADERS)
def test_header_words_are_understood_as_people_write_them(kind):
    header, row = HEADERS[kind]
    lines = [header]
    for n in range(5):
        t, lat, lon, alt = 1_777_852_800 + n, 49.0 + n * 1e-5, 8.4 + n * 2e-5, 162.0 + n
        moment = datetime.fromtimestamp(t, UTC)
        values = {
            "t": t,
            "ms": t * 1000,
            "ns": t * 10**9,
            "iso": moment.isoformat(),
            "clock": moment.strftime("%H:%M:%S"),
        }
        values |= {"lat": f"{lat:.7f}", "lon": f"{lon:.7f}", "alt": alt, "feet": alt / 0.3048, "less": alt - 40}
        values |= {"latc": f"{lat:.7f}".replace(".", ","), "lonc": f"{lon:.7f}".replace(".", ",")}
        values |= {
            name: f"{int(v)}°{(v % 1) * 60:.6f}'{letter}"
            for name, v, letter in (("latdms", lat, "N"), ("londms", lon, "E"))
        }
        values |= dict(zip(("week", "tow"), divmod(t + 18 - 315_964_800, 604_800), strict=True))
        values |= {"latr": repr(float(np.radians(lat))), "lonr": repr(float(np.radians(lon)))}
        lines.append(row.format(**values))
    read = read_csv("\n".join(lines).encode(), "gps.csv")
    fixes = read.fixes
    assert read.clock == "utc" and not read.sea_level
    np.testing.assert_allclose(fixes.time_s, 1_777_852_800 + np.arange(5), atol=1e-6)
    np.testing.assert_allclose(fixes.latitude, 49.0 + np.arange(5) * 1e-5, atol=1e-9)
    np.testing.assert_allclose(fixes.longitude, 8.4 + np.arange(5) * 2e-5, atol=1e-9)
    np.testing.assert_allclose(fixes.altitude, 162 + np.arange(5), atol=1e-6)


@pytest.mark.parametrize(
    ("crs", "row", "place"),
    [
        ("ecef", "0,4146551.02,613210.34,4791600.5", None),
        ("EPSG:25832", "0,456973.12,5428784.33,162.0", (49.010, 8.4115)),
        ("EPSG:2056", "0,2600000,1200000,540", (46.95108, 7.43864)),
    ],
)
def test_coordinates_of_other_systems_are_turned_to_degrees(crs, row, place):
    import pyproj

    read = read_csv(f"t,x,y,z\n{row}\n1{row[1:]}\n".encode(), "rtk.csv", crs=crs)
    if place is not None:
        assert (read.fixes.latitude[0], read.fixes.longitude[0]) == pytest.approx(place, abs=2e-3)
    else:
        there = pyproj.Transformer.from_crs(4978, 4979, always_xy=True).transform(*map(float, row.split(",")[1:]))
        assert (read.fixes.longitude[0], read.fixes.latitude[0], read.fixes.altitude[0]) == pytest.approx(
            there, abs=1e-6
        )


def test_coordinates_of_no_known_system_ask_for_one():
    with pytest.raises(NoPositionsError, match=r"--positions\.crs"):
        read_csv(b"t,x,y,z\n0,1,2,3\n", "rtk.csv")


NMEA = b"""$GPGGA,235959.00,4807.038,N,01131.000,W,1,08,0.9,545.4,M,46.9,M,,*5B
$GPRMC,235959.00,A,4807.038,N,01131.000,W,022.4,084.4,230394,003.1,W*58
$GPGST,235959.00,1.8,,,,1.7,1.3,2.2*7B
$GPGGA,000000.00,4807.040,N,01131.000,W,4,08,0.9,545.4,M,46.9,M,,*5E
$GPGGA,000001.00,4807.050,N,01131.000,W,0,00,99.9,,M,,M,,*54
$GPGGA,000002.00,4807.050,N,01131.000,W,1,08,0.9,545.4,M,46.9,M,,*00
"""


def with_checksums(text: bytes) -> bytes:
    lines = []
    for line in text.split():
        body = line[1 : line.index(b"*")]
        total = 0
        for byte in body:
            total ^= byte
        lines.append(line if line.endswith(b"*00") else b"$" + body + b"*%02X" % total)
    return b"\r\n".join(lines)


def test_nmea_is_read_over_midnight_with_geoid_deviation_and_speed():
    read = read_nmea(with_checksums(NMEA), "log.nmea")
    assert read.clock == "utc" and len(read.fixes) == 2
    start = datetime(1994, 3, 23, 23, 59, 59, tzinfo=UTC).timestamp()
    assert read.fixes.time_s.tolist() == [start, start + 1]
    assert read.fixes.longitude[0] == pytest.approx(-(11 + 31 / 60))
    assert read.fixes.altitude[0] == pytest.approx(545.4 + 46.9)
    assert read.fixes.accuracy[0] == pytest.approx(np.hypot(1.7, 1.3) / np.sqrt(2))
    assert read.fixes.vertical_accuracy[0] == pytest.approx(2.2)
    assert read.fixes.accuracy[1] == pytest.approx(0.9 * 0.02)  # RTK
    assert any("checksum" in note for note in read.notes) and any("no fix" in note for note in read.notes)


def test_nmea_without_a_date_says_so():
    read = read_nmea(with_checksums(b"\n".join(NMEA.splitlines()[:1])), "log.nmea")
    assert read.clock == "day" and any("date" in note for note in read.notes)


def klv(key: bytes, kind: bytes, size: int, data: bytes) -> bytes:
    return struct.pack(">4scBH", key, kind, size, len(data) // size) + data + b"\0" * (-len(data) % 4)


def test_gps9_tells_fix_and_precision_of_every_sample():
    scale = klv(b"SCAL", b"l", 4, struct.pack(">9i", 10**7, 10**7, 1000, 1000, 100, 1, 1000, 100, 1))
    layout = klv(b"TYPE", b"c", 1, b"lllllllSS")
    rows = b"".join(
        struct.pack(">7i2H", 490000000 + n, 84000000, 162000, 10000, 1000, 9000, 43_200_000 + n * 100, 150, 3 * (n > 0))
        for n in range(4)
    )
    stream = klv(b"STRM", b"\0", 1, layout + scale + klv(b"GPS9", b"?", 32, rows))
    packet = klv(b"DEVC", b"\0", 1, stream)
    read = read_gopro([(0.0, 1.0, packet), (1.0, 1.0, packet[: len(packet) // 2])], "clip.mp4")
    assert len(read.fixes) == 4 and np.isnan(read.fixes.latitude[0])
    assert read.fixes.latitude[1] == pytest.approx(49.0000001) and read.fixes.accuracy[1] == pytest.approx(4.5)
    assert any("3 of 4" in note for note in read.notes) and any("damaged" in note for note in read.notes)


def test_camm_is_read_from_a_track_of_a_video(tmp_path):
    samples = [
        struct.pack("<HHdiddfffffff", 0, 6, 1e9 + n, 3, 49.0 + n * 1e-5, 8.4, 162.0, 1.5, 2.5, 3.0, 4.0, 0.0, 0.1)
        for n in range(6)
    ]
    samples.insert(3, struct.pack("<HHfff", 0, 2, 0.0, 0.0, 0.1))
    path = tmp_path / "street.mp4"
    path.write_bytes(mp4_of(samples, tag=b"camm", handler=b"CameraMetadataMotionHandler"))
    assert telemetry_kind(str(path)) == "camm"
    read = read_telemetry(str(path))
    np.testing.assert_allclose(read.fixes.time_s, [0, 0.5, 1, 2, 2.5, 3])
    np.testing.assert_allclose(read.fixes.latitude, 49.0 + np.arange(6) * 1e-5)
    assert read.fixes.vertical_accuracy[0] == 2.5
    assert read.speed is not None and read.speed.speed_m_s[0] == pytest.approx(5.0)


def test_blackvue_is_read_from_its_box(tmp_path):
    lines = with_checksums(
        b"$GPGGA,120000.00,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*1\n"
        b"$GPGGA,120001.00,4807.048,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*1"
    ).split()
    text = b"".join(b"[%d]%s\r\n" % (1_700_000_000_000 + 980 * n, line) for n, line in enumerate(lines))
    path = tmp_path / "front.mp4"
    path.write_bytes(mp4_of([b"x" * 8] * 2, tag=b"text", handler=b"other", free=box(b"gps ", text)))
    assert telemetry_kind(str(path)) == "blackvue"
    read = read_telemetry(str(path))
    assert read.fixes.time_s.tolist() == [0, 0.98] and read.fixes.latitude[0] == pytest.approx(48 + 7.038 / 60)


NOT_READ = {
    "nothing": (b"", "empty"),
    "words": (b"hello there\nfriend\n", "no header line"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0", "neither"),
    "rows without a header": (b"1,49.0,8.4\n2,49.0,8.4\n", "no header line"),
    "a header alone": (b"time,lat,lon\n", "no rows"),
    "decimal commas between commas": (b"time,lat,lon\n0,49,5,8,25\n1,49,6,8,26\n", "decimal commas"),
    "no times": (b"lat,lon\n49,8\n", "no column of times"),
    "times that are none": (b"time,lat,lon\nsoon,49,8\nlater,49,8\n", "times cannot be read"),
    "broken XML": (b"<gpx><trk>", "no readable GPX"),
    "a track without points": (b'<gpx version="1.1" creator="x"></gpx>', "without a track"),
    "NMEA without a fix": (b"$GPGGA,120000.00,,,,,0,00,99.9,,M,,M,,*6B\r\n", "no NMEA sentence"),
    "no fix anywhere": (b"time,lat,lon,fix\n0,49,8,0\n1,49,8,0\n", "no fix"),
}


@pytest.mark.parametrize("kind", NOT_READ)
def test_files_that_hold_no_positions_are_said_in_one_line(tmp_path, kind):
    data, said = NOT_READ[kind]
    path = tmp_path / "gps.csv"
    path.write_bytes(data)
    with pytest.raises(NoPositionsError, match=said) as caught:
        read_file(str(path))
    assert "\n" not in str(caught.value) and "gps.csv" in str(caught.value)


T, LAT, LON = np.arange(40.0), 49.0 + np.arange(40) * 1e-5, 8.4 + np.arange(40) * 1e-5


def csv_of(time_s, lat, lon):
    rows = [f"{t},{a!r},{o!r}" for t, a, o in zip(time_s, map(float, lat), map(float, lon), strict=True)]
    return read_csv(("t,lat,lon\n" + "\n".join(rows)).encode(), "gps.csv")


IMPOSSIBLE = {
    "swapped": (T, LON * 0 + 122.4, LAT, "swapped"),
    "degrees and minutes": (T, LAT * 0 + 4900.56, LON * 0 + 824.69, "degrees and minutes"),
    "metres": (T, LAT * 0 + 5428784, LON * 0 + 456973, "projection"),
    "times that fall": (T[::-1], LAT, LON, "do not rise"),
    "null island": (T, LAT * 0, LON * 0, "latitude 0"),
    "not a number": (T, LAT * np.nan, LON, "no position"),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_no_place_can_be_is_named(kind):
    time_s, lat, lon, said = IMPOSSIBLE[kind]
    with pytest.raises(NoPositionsError, match=said):
        checked(csv_of(time_s, lat, lon))


def test_a_few_bad_fixes_are_taken_out_and_counted():
    lat, lon, time_s = LAT.copy(), LON.copy(), T.copy()
    lat[3] = lon[3] = 0.0  # null island
    lat[10:15], lon[10:15] = lat[10], lon[10]  # frozen
    time_s[20] = time_s[19]  # written twice
    time_s[30] = -3600  # of the hour before
    lat[35] = np.nan
    good = checked(csv_of(time_s, lat, lon))
    out = ~np.isfinite(good.fixes.latitude)
    assert np.flatnonzero(out).tolist() == [3, 11, 12, 13, 14, 20, 30, 35]
    assert len(good.notes) == 4


def test_a_standing_car_keeps_its_fixes():
    standing = checked(csv_of(T, LAT * 0 + 49, LON * 0 + 8.4))
    assert np.isfinite(standing.fixes.latitude).all()


def test_a_picture_that_says_its_position_is_void_tells_none(tmp_path):
    for name, status in (("a.jpg", "A"), ("b.jpg", "V")):
        image = Image.new("RGB", (8, 8))
        exif = image.getexif()
        exif[0x8825] = {1: "S", 2: (33.0, 30.0, 0.0), 3: "E", 4: (151.0, 0.0, 0.0), 9: status}
        image.save(tmp_path / name, exif=exif)
    read = read_photographs([str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg"), str(tmp_path / "none.jpg")])
    assert read.fixes.latitude.tolist() == [-33.5] and read.fixes.time_s.tolist() == [0] and len(read.notes) == 1


def test_gpx_that_declares_entities_is_not_read():
    with pytest.raises(NoPositionsError, match="document type"):
        read_gpx(b'<?xml version="1.0"?><!DOCTYPE gpx [<!ENTITY a "b">]><gpx/>', "bomb.gpx")


def test_fixes_out_of_rows_keep_their_deviations():
    fixes = fixes_of([(0, 49, 8, 100, 2, 4)])
    assert fixes.accuracy.tolist() == [2] and fixes.vertical_accuracy.tolist() == [4]
